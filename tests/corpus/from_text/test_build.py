from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from multiprocessing import process
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olmo_inject import owned_folder
from olmo_inject.corpus.folder import CorpusDescription, read_corpus_folder
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.inputs import TextOptions, find_inputs, skipped_files
from olmo_inject.corpus.from_text.job import BuildOptions, make_jobs, run_job
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.corpus.from_text.shard_writer import WORK
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.corpus.provenance import Origin, origins_at, provenance_path, read_origins
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary

# Real text, and what a tokenizer may trip over; one document is empty.
TEXTS = [
    *documents(["boolq"])["boolq"][:120],
    "Ends here<|endoftext|>and goes on <|padding|>",
    "",
    "naïve façade — 12\u00a0+\u20097 = 19 🎉 中文\r\nнаконец",
    *documents(["sciq"])["sciq"][:80],
]
SMALL = BuildOptions(shard_tokens=3000)


def json_lines(texts: list[str], first: int = 0) -> bytes:
    lines = [json.dumps({"id": f"d{first + i}", "text": text, "source": "x"}) for i, text in enumerate(texts)]
    return ("\n".join(lines) + "\n").encode()


def zstd(path: Path, *frames: bytes) -> None:
    """Several frames in one file, as `zstd` appends them."""
    out = b""
    for frame in frames:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(frame)
        out += sink.getvalue().to_pybytes()
    path.write_bytes(out)


def parquet(path: Path) -> None:
    ids = [f"d{i}" for i in range(len(TEXTS))]
    pq.write_table(pa.table({"text": TEXTS, "id": ids, "more": ids}), path, row_group_size=50)


def saved(path: Path) -> None:
    ids = [f"d{i}" for i in range(len(TEXTS))]
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": TEXTS, "id": ids}).save_to_disk(str(path), num_shards=3)


def mixed(folder: Path) -> None:
    """A folder with files of several kinds in folders, read in the order of their names."""
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden.jsonl").write_text("no JSON")
    (folder / "README.md").write_text("no text")
    (folder / "a.json").write_bytes(json_lines(TEXTS[:7]))
    zstd(folder / "b" / "1.json.zst", json_lines(TEXTS[7:50], 7), json_lines(TEXTS[50:90], 50))
    (folder / "b" / "2.json.gz").write_bytes(gzip.compress(json_lines(TEXTS[90:], 90)))


def gzip_members(path: Path) -> None:
    """Two members in one file, as `gzip` appends them."""
    path.write_bytes(gzip.compress(json_lines(TEXTS[:50])) + gzip.compress(json_lines(TEXTS[50:], 50)))


FORMATS: dict[str, Callable[[Path], object]] = {
    "t.jsonl": lambda path: path.write_bytes(json_lines(TEXTS)),
    "t.json.gz": gzip_members,
    "t.jsonl.zst": lambda path: zstd(path, json_lines(TEXTS)),
    "t.parquet": parquet,
    "saved": saved,
    "folder": mixed,
}


def ids_of(corpus: CorpusDescription) -> np.ndarray:
    return np.concatenate([np.fromfile(shard.path, corpus.dtype) for shard in corpus.shards])


def expected_ids(texts: list[str], vocabulary: Vocabulary) -> np.ndarray:
    """Each document tokenized by itself, in the plainest way."""
    tokenizer = vocabulary.tokenizer
    assert tokenizer is not None
    tokenizer.encode_special_tokens = True
    parts = [[*tokenizer.encode(text, add_special_tokens=False).ids, vocabulary.eos_id] for text in texts if text]
    tokenizer.encode_special_tokens = False
    return np.concatenate([np.array(part) for part in parts])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tokens_with_their_provenance(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    corpus = build_corpus(tmp_path / "out", [str(tmp_path / name)], SMALL, progress=False)
    vocabulary = corpus.load_vocabulary()
    assert np.array_equal(ids_of(corpus), expected_ids(TEXTS, vocabulary))
    assert corpus.documents == len(TEXTS) - 1 == np.count_nonzero(ids_of(corpus) == corpus.eos_token_id)
    assert corpus.sources[str(tmp_path / name)]["empty"] == 1
    assert len(corpus.shards) > 5
    assert all(shard.tokens <= 3000 for shard in corpus.shards)
    seen = []
    for shard in corpus.shards:
        ids, rows = np.fromfile(shard.path, corpus.dtype), list(read_origins(provenance_path(shard.path)))
        assert rows[0].start == 0
        assert rows[-1].end == len(ids)
        assert [row.end for row in rows[:-1]] == [row.start for row in rows[1:]]
        for row in rows:
            number = int(row.id[1:])
            assert vocabulary.decode(ids[row.start : row.end]) == TEXTS[number] + "<|endoftext|>"
            assert ids[row.end - 1] == corpus.eos_token_id
            seen.append(number)
            if name != "folder":
                assert row.line == number + 1
            elif row.source.endswith("2.json.gz"):
                assert row.line == number - 89
    assert seen == [i for i, text in enumerate(TEXTS) if text]


@pytest.mark.slow
def test_a_dataset_by_name_is_streamed_shard_by_shard(tmp_path: Path) -> None:
    mixed(tmp_path / "data")
    (tmp_path / "data" / "README.md").unlink()
    (tmp_path / "data" / ".hidden.jsonl").unlink()
    corpus = build_corpus(tmp_path / "out", [f"hf:{tmp_path / 'data'}"], SMALL, progress=False)
    assert sorted(ids_of(corpus).tolist()) == sorted(expected_ids(TEXTS, corpus.load_vocabulary()).tolist())
    rows = [row for shard in corpus.shards for row in read_origins(provenance_path(shard.path))]
    assert sorted(int(row.id[1:]) for row in rows) == [i for i, text in enumerate(TEXTS) if text]
    assert {row.source.rpartition("#")[0] for row in rows} == {f"hf:{tmp_path / 'data'}/train"}
    with pytest.raises(UserError, match=r"hf:.*cannot be opened") as refused:
        find_inputs([f"hf:{tmp_path / 'nothing'}"], TextOptions())
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_plain_text_by_file_or_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Erste Zeile\r\nzweite\n\nvierte ohne Ende")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("Übung".encode()))
    whole = build_corpus(tmp_path / "whole", [str(tmp_path)], BuildOptions(), progress=False)
    assert whole.load_vocabulary().decode(ids_of(whole)).split("<|endoftext|>") == [
        "Erste Zeile\r\nzweite\n\nvierte ohne Ende",
        "Übung",
        "",
    ]
    options = BuildOptions(text=TextOptions(text_unit="line"))
    lines = build_corpus(tmp_path / "lines", [str(tmp_path / "a.txt")], options, progress=False)
    assert lines.load_vocabulary().decode(ids_of(lines)) == "<|endoftext|>".join(
        ["Erste Zeile", "zweite", "vierte ohne Ende", ""]
    )
    assert [row.line for row in read_origins(provenance_path(lines.shards[0].path))] == [1, 2, 4]


@pytest.mark.slow
def test_tokenizers(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_bytes(json_lines(TEXTS))
    bpe = build_corpus(tmp_path / "bpe", [str(source)], BuildOptions("bpe", 600), progress=False)
    assert (bpe.vocab_size, bpe.eos_token_id, bpe.dtype) == (600, 0, "uint16")
    assert np.array_equal(ids_of(bpe), expected_ids(TEXTS, bpe.load_vocabulary()))
    own = tmp_path / "mine.json"
    (tmp_path / "bpe" / "tokenizer.json").rename(own)
    copied = build_corpus(tmp_path / "copied", [str(source)], BuildOptions(str(own)), progress=False)
    own.unlink()
    assert np.array_equal(ids_of(copied), ids_of(bpe))
    assert copied.load_vocabulary().size == 600
    wide = build_corpus(tmp_path / "wide", [str(source)], BuildOptions("allenai_dolma2"), progress=False)
    assert wide.dtype == "uint32"
    assert ids_of(wide).max() > 2**16
    assert np.array_equal(ids_of(wide), expected_ids(TEXTS, wide.load_vocabulary()))


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


@pytest.mark.slow
def test_another_build_that_came_first_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a build holds the folder another may have begun and ended there: what is there is looked at afterwards."""
    (tmp_path / "t.txt").write_text("one")
    arguments, held = (tmp_path / "out", [str(tmp_path / "t.txt")]), owned_folder.locked
    before: list[dict[Path, int]] = []

    def after_another(*rest: Any) -> AbstractContextManager[None]:
        monkeypatch.setattr(owned_folder, "locked", held)
        build_corpus(*arguments, SMALL, progress=False)
        before.append({path: path.stat().st_mtime_ns for path in arguments[0].iterdir()})
        return held(*rest)

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


DAMAGED = {
    "no JSON": b'{"text": "cut off',
    "no object": b'["text"]',
    "no text": b'{"id": "x"}',
    "text is a number": b'{"text": 3}',
    "no UTF-8": b'{"text": "\xff"}',
    "half a surrogate pair": b'{"text": "\\ud800"}',
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_is_named_or_counted(damage: str, tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl.zst"
    zstd(source, json_lines(TEXTS[:90]) + DAMAGED[damage] + b"\n" + json_lines(TEXTS[90:], 90))
    with pytest.raises(UserError, match=r"t\.jsonl\.zst: line 91 is damaged: ") as refused:
        build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    assert "\n" not in str(refused.value)
    # What was written until then is taken up.
    skipping = BuildOptions(shard_tokens=3000, skip_damaged=True)
    corpus = build_corpus(tmp_path / "out", [str(source)], skipping, progress=False)
    assert corpus.sources[str(source)]["damaged"] == 1
    assert np.array_equal(ids_of(corpus), expected_ids(TEXTS, corpus.load_vocabulary()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.json.gz", "t.jsonl.zst"])
def test_a_file_that_breaks_off(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 2000)
    with pytest.raises(UserError, match=rf"{name}: line \d+ is damaged: "):
        build_corpus(tmp_path / "out", [str(tmp_path / name)], SMALL, progress=False)
    skipping = replace(SMALL, skip_damaged=True)
    zstd(tmp_path / "whole.jsonl.zst", json_lines(TEXTS))
    sources = [str(tmp_path / file) for file in (name, "whole.jsonl.zst")]
    corpus = build_corpus(tmp_path / "out", sources, skipping, progress=False)
    assert [(of["damaged"], of["broken_off"]) for of in corpus.sources.values()] == [(1, 1), (0, 0)]
    broken, whole = (of["documents"] + of["empty"] for of in corpus.sources.values())
    assert broken < whole == len(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", b"x", {}, "not a known format"),
        ("a.parquet", b"x", {}, "is not a Parquet file"),
        ("a.jsonl", b"", {}, "no document with text"),
        ("a.jsonl", b'{"text": " "}\n', {}, "no document with text"),
        ("a.txt", b"abc\n\xff", {}, r"a\.txt: line 2 is damaged"),
        ("a.txt", b"abc", {"text": TextOptions(text_unit="word")}, "allowed are file, line"),
        ("a.txt", b"abc", {"tokenizer": "bpe", "vocab_size": 100}, "allowed is 258 to"),
        ("a.txt", b"abc", {"tokenizer": "gpt17"}, "no tokenizer gpt17"),
        ("a.txt", b"abc", {"shard_tokens": 0}, "must be at least 1"),
    ],
)
def test_mistakes(name: str, content: bytes, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_corpus(tmp_path / "out", [str(tmp_path / name)], BuildOptions(**options), progress=False)
    assert not (tmp_path / "out").exists(), "the corrected command finds the folder free"
    (tmp_path / "b.txt").write_text("b")
    before = contents(build_corpus(tmp_path / "out", [str(tmp_path / "b.txt")], SMALL, progress=False).folder)
    if not isinstance(options.get("text"), TextOptions) and options:
        sources = [str(tmp_path / name)]
        with pytest.raises(UserError, match=message):
            build_corpus(tmp_path / "out", sources, BuildOptions(**options), overwrite=True, progress=False)
        assert contents(tmp_path / "out") == before, "what cannot be built replaces nothing"


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


def test_no_room_for_sockets_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, long = tmp_path / "a.jsonl", tmp_path / ("x" * 110)
    source.write_bytes(json_lines(TEXTS[:3]))
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^TMPDIR: .* set TMPDIR to a folder with a shorter path"):
        build_corpus(tmp_path / "out", [str(source)], SMALL, processes=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_missing_column_and_source(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no column body; there are text, id, more"):
        build_corpus(
            tmp_path / "out",
            [str(tmp_path / "t.parquet")],
            BuildOptions(text=TextOptions(text_field="body")),
            progress=False,
        )
    with pytest.raises(UserError, match="neither a file nor a folder"):
        find_inputs([str(tmp_path / "nothing")], TextOptions())


@pytest.mark.slow
def test_small_files_share_shards_and_sources_do_not(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(5):
            (tmp_path / folder / f"{number}.txt").write_text(f"{folder}{number}")
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    jobs = make_jobs(find_inputs(sources, TextOptions()), tmp_path, BuildOptions(), Vocabulary.load(DOLMA))
    assert [[Path(one.path).stem for one in job.inputs] for job in jobs] == [list("01234")] * 2
    corpus = build_corpus(tmp_path / "out", sources, BuildOptions(), progress=False)
    assert [shard.path.name for shard in corpus.shards] == ["part-00000-000.npy", "part-00001-000.npy"]
    assert corpus.sources[sources[1]]["documents"] == 5


def test_the_document_at_a_token(tmp_path: Path) -> None:
    shard = tmp_path / "x.npy"
    with gzip.open(tmp_path / "x.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([(0, 4, "a,b", "f", 1), (4, 9, 'q"', "f", 2)])
    assert origins_at(shard, [8, 0, 4, 3, 9]) == [
        Origin(4, 9, 'q"', "f", 2),
        Origin(0, 4, "a,b", "f", 1),
        Origin(4, 9, 'q"', "f", 2),
        Origin(0, 4, "a,b", "f", 1),
        None,
    ]
    assert origins_at(tmp_path / "y.npy", [1]) == [None]
    (tmp_path / "y.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="is not a provenance file"):
        origins_at(tmp_path / "y.npy", [1])


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (here / "a").mkdir(parents=True)
    (here / "a" / "1.txt").write_text("one")
    (elsewhere / "2.txt").write_text("two")
    (elsewhere / "deep" / "3.txt").write_text("three")
    (here / "linked").symlink_to(elsewhere)
    (here / "again").symlink_to(elsewhere / "deep")  # as all of `linked` is
    (elsewhere / "deep" / "loop").symlink_to(here)
    (here / "gone.txt").symlink_to(tmp_path / "nowhere")
    found = [Path(one.path).relative_to(here) for one in find_inputs([str(here)], TextOptions())]
    assert found == [Path("a/1.txt"), Path("again/3.txt"), Path("linked/2.txt")]
    assert skipped_files([str(here)]) == [str(here / "gone.txt")]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    latin1 = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / "in" / latin1).write_text("b")
    for source in (tmp_path / "in", tmp_path / "in" / latin1):
        with pytest.raises(UserError, match="the name is not UTF-8; rename it"):
            build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    assert not (tmp_path / "out").exists()
