"""Builds that were killed, failed or finished, and the same command again."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from written_text import SMALL, TEXTS, contents, json_lines

from olmo_inject.corpus.folder import read_corpus_folder
from olmo_inject.corpus.from_text import job
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.documents import Document
from olmo_inject.corpus.from_text.folder import PLAN
from olmo_inject.corpus.from_text.inputs import TextOptions, find_inputs
from olmo_inject.corpus.from_text.job import BuildOptions, make_jobs, run_job
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.corpus.from_text.shard_writer import WORK
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.errors import UserError
from olmo_inject.utils import owned_folder
from olmo_inject.vocabulary import Vocabulary


def write_many(folder: Path) -> None:
    folder.mkdir()
    texts = documents(["boolq"])["boolq"]
    for number in range(4):
        (folder / f"{number}.json.gz").write_bytes(gzip.compress(json_lines(texts[number * 700 : (number + 1) * 700])))


def command(source: Path, to: Path, *more: str) -> list[str]:
    build = [sys.executable, "-m", "olmo_inject", "corpus", "build", str(source), "--out", str(to)]
    return [*build, "--shard-tokens", "20000", *more]


@pytest.mark.slow
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_many(tmp_path / "in")
    subprocess.run(command(tmp_path / "in", tmp_path / "whole"), check=True, capture_output=True)
    killed, kills = tmp_path / "killed", 0
    before: set[str] = set()
    while True:
        process = subprocess.Popen(command(tmp_path / "in", killed, "--processes", str(1 + kills % 2)))
        deadline = time.monotonic() + 60
        # After some shards more than there were.
        while process.poll() is None and len(set(map(str, killed.glob("part-*.npy"))) - before) < 4 * (kills + 1):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        children = _descendants(process.pid)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            break
        kills += 1
        assert _gone_soon(children), "a killed build leaves processes behind"
        before = set(map(str, killed.glob("part-*.npy")))
        with pytest.raises(UserError, match="killed is not finished: the same `olmo-inject corpus build`"):
            read_corpus_folder(killed)
    assert kills >= 2
    assert contents(killed) == contents(tmp_path / "whole")
    assert len(read_corpus_folder(killed).shards) > 10


def _descendants(pid: int) -> set[int]:
    """The processes below `pid`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def _gone_soon(pids: set[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_a_build_killed_between_its_last_shard_and_saying_so(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(json_lines(TEXTS))
    (tmp_path / "out" / WORK).mkdir(parents=True)
    inputs = find_inputs([str(tmp_path / "t.jsonl")], TextOptions())
    (job,) = make_jobs(inputs, tmp_path / "out", SMALL, Vocabulary.load(DOLMA))
    counts = run_job(job, lambda done, tokens: None)
    before = contents(tmp_path / "out" / WORK)
    (tmp_path / "out" / WORK / "job-00000.json").unlink()
    assert run_job(job, lambda done, tokens: None) == counts == {"empty": 1, "damaged": 0, "broken_off": 0}
    assert contents(tmp_path / "out" / WORK) == before


@pytest.mark.slow
def test_what_is_finished_is_not_built_again(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_bytes(json_lines(TEXTS))
    build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(UserError, match="not empty"):
        build_corpus(tmp_path / "out", [str(source)], BuildOptions(), progress=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert (
        len(build_corpus(tmp_path / "out", [str(source)], BuildOptions(), overwrite=True, progress=False).shards) == 1
    )
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(UserError, match="holds notes, which is no part"):
        build_corpus(tmp_path / "out", [str(source)], SMALL, overwrite=True, progress=False)


def test_an_input_of_the_same_size_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed in a finished corpus, in the rest of an interrupted build, and while it is read."""
    source, out = tmp_path / "t.jsonl", tmp_path / "out"

    def build(**more: Any) -> Path:
        return build_corpus(out, [str(source)], replace(SMALL, shard_tokens=900), progress=False, **more).shards[0].path

    source.write_bytes(json_lines(["one"] * 1200))
    old = build().read_bytes()
    source.write_bytes(json_lines(["two"] * 1200))
    with pytest.raises(UserError, match=r"a corpus that has not read .*t\.jsonl as it is now; --overwrite builds it"):
        build()
    new = build(overwrite=True).read_bytes()
    assert new != old

    read = job.read_documents

    def changing(*arguments: Any) -> Iterator[Document]:
        yield from read(*arguments)
        source.write_bytes(json_lines(["one"] * 1200))

    monkeypatch.setattr(job, "read_documents", changing)
    source.write_bytes(json_lines(["six"] * 1200))
    with pytest.raises(UserError, match=r"t\.jsonl has changed while the corpus was built: --overwrite builds it anew"):
        build(overwrite=True)
    monkeypatch.setattr(job, "read_documents", read)
    with pytest.raises(UserError, match=r"with other sources \(it has not read .*t\.jsonl as it is now\)"):
        build()
    assert build(overwrite=True).read_bytes() == old

    plan = json.loads((out / PLAN).read_text())
    for one in plan["inputs"]:
        del one["modified"]  # as earlier builds did not record it
    (out / PLAN).write_text(json.dumps(plan))
    assert build().read_bytes() == old


@pytest.mark.slow
def test_another_build_that_came_first_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a build holds the folder another may have begun and ended there: what is there is looked at afterwards."""
    (tmp_path / "t.txt").write_text("one")
    arguments, held = (tmp_path / "out", [str(tmp_path / "t.txt")]), owned_folder.locked
    before: list[dict[Path, int]] = []

    def after_another(*rest: Any, **more: Any) -> AbstractContextManager[None]:
        monkeypatch.setattr(owned_folder, "locked", held)
        build_corpus(*arguments, SMALL, progress=False)
        before.append({path: path.stat().st_mtime_ns for path in arguments[0].iterdir()})
        return held(*rest, **more)

    for options in (SMALL, replace(SMALL, shard_tokens=9)):
        monkeypatch.setattr(owned_folder, "locked", after_another)
        if options == SMALL:
            build_corpus(*arguments, options, progress=False)
        else:
            with pytest.raises(UserError, match="out exists and is not empty"):
                build_corpus(*arguments, options, progress=False)
        assert {path: path.stat().st_mtime_ns for path in arguments[0].iterdir()} == before[-1]
        shutil.rmtree(arguments[0])


@pytest.mark.slow
def test_what_is_not_of_a_corpus_is_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "t.txt", tmp_path / "deep" / "out"
    source.write_bytes(b"\xff")
    with pytest.raises(UserError, match="damaged"):
        build_corpus(out, [str(source)], SMALL, progress=False)
    assert not out.parent.exists(), "folders that were made for it neither"
    (out / WORK).mkdir(parents=True)  # as one that was killed before its first shard
    inputs = [asdict(one) for one in find_inputs([str(source)], TextOptions())]
    (out / "build.json").write_text(json.dumps({"format": 1, "options": asdict(SMALL), "inputs": inputs}))
    (out / "notes.txt").write_text("mine")
    (out / "more").mkdir()
    with pytest.raises(UserError, match="damaged"):
        build_corpus(out, [str(source)], SMALL, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["more", "notes.txt"]


@pytest.mark.parametrize(
    "name", ["part-00000.jsonl", "part-dir/", "part-00000.npy/", "part-00000.npy", "tokenizer.json"]
)
def test_what_is_no_corpus_is_not_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one")
    path = tmp_path / "out" / name
    (path if name.endswith("/") else path.parent).mkdir(parents=True)
    if not name.endswith("/"):
        path.write_text("mine")
    for _ in range(2):  # nothing that the first leaves makes it a corpus
        with pytest.raises(UserError, match=f"out is not overwritten: it holds {path.name}, "):
            build_corpus(tmp_path / "out", [str(tmp_path / "t.txt")], SMALL, overwrite=True, progress=False)
        with pytest.raises(UserError, match=f"out is not overwritten: it holds {path.name}, "):
            build_sample(tmp_path / "out", sources=["openbookqa"], overwrite=True, progress=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


def test_sources_are_not_built_over(tmp_path: Path) -> None:
    source = tmp_path / "data" / "part-00000.jsonl"
    source.parent.mkdir()
    source.write_bytes(json_lines(TEXTS[:3]))
    for given in (source, source.parent):
        with pytest.raises(UserError, match="data is or holds the source"):
            build_corpus(source.parent, [str(given)], SMALL, overwrite=True, progress=False)
    assert contents(source.parent) == {source.name: json_lines(TEXTS[:3])}


@pytest.mark.slow
def test_finished_shards_of_a_failed_build_are_not_lost(tmp_path: Path) -> None:
    """A build that failed goes on from its shards; another one says whose they are, and takes their place if told."""
    source, out = tmp_path / "t.jsonl", tmp_path / "out"
    source.write_bytes(json_lines(TEXTS * 3) + b"{\n" + json_lines(TEXTS))
    with pytest.raises(
        UserError, match=r"t\.jsonl: line 610 is damaged: Expecting property name .* at character [23] \("
    ):
        build_corpus(out, [str(source)], SMALL, progress=False)
    (*finished,) = sorted(out.glob("part-*.npy"))
    assert len(finished) > 3
    stamps = [path.stat().st_mtime_ns for path in finished]
    other = replace(SMALL, shard_tokens=4000)
    with pytest.raises(
        UserError, match="of an interrupted build with shard_tokens 3000: continue with that, or give --overwrite"
    ):
        build_corpus(out, [str(source)], other, progress=False)
    build_corpus(out, [str(source)], replace(SMALL, skip_damaged=True), progress=False)
    assert [path.stat().st_mtime_ns for path in finished] == stamps
    with pytest.raises(UserError, match="line 610 is damaged"):
        build_corpus(out, [str(source)], SMALL, overwrite=True, progress=False)
    source.write_bytes(json_lines(TEXTS))
    with pytest.raises(UserError, match=r"with other sources \(it has not read .*t\.jsonl as it is now\)"):
        build_corpus(out, [str(source)], SMALL, progress=False)
    assert len(build_corpus(out, [str(source)], SMALL, overwrite=True, progress=False).shards) > 3
