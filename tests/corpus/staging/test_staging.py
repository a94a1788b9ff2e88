"""A stage holds, at every position, the tokens of its source; whatever it is read from and whenever it is killed."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from named import BATCH, LENGTH, NAMES, served
from stages import SEED, VOCABULARY, check_same, contents, opened, remote, stage

from olmo_inject.corpus.order import Order
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.sources import LocalSource, Source, local, open_source
from olmo_inject.corpus.staged import RankRange, StagedShards, StageOrder, read_stage
from olmo_inject.corpus.staging import check_extent, open_stager, spill_runs
from olmo_inject.errors import UserError


@settings(max_examples=8)
@given(
    first=st.integers(0, 30),
    count=st.integers(1, 40),
    read=st.sampled_from(["auto", "ranges", "stream"]),
    part=st.integers(16, 400),
    run=st.integers(10, 60),
    jobs=st.integers(1, 3),
    memory=st.sampled_from([0, 40_000, 1 << 30]),
    chunk=st.sampled_from([13, 100, 1 << 20]),
)
def test_any_stage_is_its_source(
    tmp_path_factory: pytest.TempPathFactory,
    root: Path,
    first: int,
    count: int,
    read: str,
    part: int,
    run: int,
    jobs: int,
    memory: int,
    chunk: int,
) -> None:
    """22 steps are an epoch: also over its end, with a shard that stands twice; parts, runs, chunks of any size."""
    to = tmp_path_factory.mktemp("stage") / "stage"
    shards, order = opened(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill_runs, "RUN_BYTES", run * 2 * LENGTH)
        patch.setattr(local, "CHUNK", chunk)
        more = {"read": read, "at_once": jobs, "file_bytes": part * 2 * LENGTH, "memory_bytes": memory}
        stage(shards, order, range(first, first + count), to, **more)
    check_same(to, shards, order)
    shutil.rmtree(to)


@pytest.mark.slow
@pytest.mark.parametrize(("read", "memory"), [("ranges", 0), ("stream", 0), ("stream", 1 << 20)])
def test_from_a_server_that_fails_in_every_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, memory: int
) -> None:
    monkeypatch.setattr(spill_runs, "RUN_BYTES", 10 * 2 * LENGTH)
    with served(root) as (url, faults):
        shards = remote(url)
        kinds = ["drop", "500", "short", "close", "429"]
        faults.next_fault = lambda number: kinds[number % len(kinds)] if faults.nth < 3 else None
        here, order = opened(root)
        stage(shards, order, range(3, 25), tmp_path / "web", read=read, memory_bytes=memory)
        assert set(faults.met) == set(kinds)
    check_same(tmp_path / "web", here, order)
    stage(here, order, range(3, 25), tmp_path / "disk", read=read)
    assert contents(tmp_path / "web") == contents(tmp_path / "disk")


def test_ranks_keep_what_they_read(root: Path, tmp_path: Path) -> None:
    shards, order = opened(root)
    for first, last in ((0, 0), (1, 2), (3, 3)):
        to = tmp_path / f"node{first}"
        stage(shards, order, range(2, 12), to, ranks=RankRange(first, last, 4))
        rows = [row for row in range(BATCH) if first <= row % 4 <= last]
        check_same(to, shards, order, rows)
        places = StageOrder(read_stage(to), BATCH, SEED)
        with pytest.raises(UserError, match=rf"holds the rows of ranks {first}-{last} of 4, not row "):
            places[np.arange(2 * BATCH, 3 * BATCH)]


def test_a_stage_can_be_staged(root: Path, tmp_path: Path) -> None:
    """From a shared file system to a node's own disk."""
    shards, order = opened(root)
    stage(shards, order, range(0, 20), tmp_path / "shared")
    record = read_stage(tmp_path / "shared")
    staged, places = StagedShards(record, LENGTH), StageOrder(record, BATCH, SEED)
    stage(staged, places, range(5, 15), tmp_path / "node", ranks=RankRange(1, 1, 2))
    check_same(tmp_path / "node", shards, order, [1, 3, 5, 7])
    with pytest.raises(UserError, match="holds steps 0 to 19, not steps 15 to 20"):
        open_stager(staged, places, VOCABULARY, range(15, 21), tmp_path / "more")


def test_the_cheaper_way_is_chosen(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ranges few sequences of a large file, by streaming nearly all of it; nothing is asked of files not needed."""
    shards, order = opened(root)
    monkeypatch.setattr(LocalSource, "range_cost", 5 * 2 * LENGTH)
    few = open_stager(shards, order, VOCABULARY, range(1), tmp_path / "few", file_bytes=1 << 20).reads
    many = open_stager(shards, order, VOCABULARY, range(22), tmp_path / "many", file_bytes=1 << 20).reads
    assert (few.streamed, few.ranges) == ((), BATCH)
    assert len(many.streamed) == 4
    assert many.streamed_bytes == sum((root / name).stat().st_size for name in set(NAMES))
    assert few.ranged_bytes == few.ranges * 2 * LENGTH
    with served(root) as (url, faults):
        web = remote(url)
        faults.requests.clear()
        stage(web, order, range(1), tmp_path / "ranges", read="ranges")
        assert faults.bytes_asked == BATCH * 2 * LENGTH


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
root, to, kill_at, read, memory = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
sys.path.insert(0, sys.argv[6])
from stages import opened, VOCABULARY, LENGTH, open_stager
from olmo_inject.corpus.staging import spill_runs
spill_runs.RUN_BYTES = 20 * 2 * LENGTH
count, fsync = 0, os.fsync
def dying(descriptor):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), 9)
    fsync(descriptor)
os.fsync = dying
shards, order = opened(root)
how = {"file_bytes": 40 * 2 * LENGTH, "read": read, "at_once": 2, "memory_bytes": memory}
stager = open_stager(shards, order, VOCABULARY, range(3, 25), to, **how)
assert stager.run(lambda n: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("read", "memory", "kill_at"), [("stream", 0, 11), ("ranges", 0, 11), ("stream", 1 << 20, 7)])
def test_killed_wherever_nothing_is_lost_or_twice(
    root: Path, tmp_path: Path, read: str, memory: int, kill_at: int
) -> None:
    """Killed just before every few files are on disk: what was finished is kept, what was not is made again."""
    to = tmp_path / "stage"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    ended = -signal.SIGKILL
    attempts, kept = 0, []
    while ended == -signal.SIGKILL:
        attempts += 1
        arguments = (script, root, to, kill_at, read, memory, Path(__file__).parents[1])
        result = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
        ended = result.returncode
        vouched = [path for path in to.glob("part-*") if (to / ".staging" / f"{path.stem}.json").exists()]
        kept.append({path: path.stat().st_mtime_ns for path in (*vouched, *(to / ".staging").glob("*.index"))})
        assert not (to / "stage.json").exists() or ended == 0
    assert ended == 0, result.stderr
    assert attempts >= (3 if read == "stream" and not memory else 2)
    for before, after in itertools.pairwise(kept[:-1]):
        assert before.items() <= after.items(), "what was complete is not made again"
    shards, order = opened(root)
    check_same(to, shards, order)
    assert not list(to.glob(".*"))


def test_a_request_to_stop_keeps_what_is_done(root: Path, tmp_path: Path) -> None:
    shards, order = opened(root)
    asked = {"file_bytes": 10 * 2 * LENGTH, "at_once": 1, "read": "ranges"}
    calls: list[int] = []
    first = open_stager(shards, order, VOCABULARY, range(20), tmp_path / "s", **asked)
    assert not first.run(calls.append, lambda: len(calls) >= 6)
    assert not (tmp_path / "s" / "stage.json").exists()
    done = set((tmp_path / "s").glob("part-*"))
    assert 3 <= len(done) < 16
    second = open_stager(shards, order, VOCABULARY, range(20), tmp_path / "s", **asked)
    assert second.disk_bytes < first.stage_bytes
    assert second.run(lambda n: None)
    check_same(tmp_path / "s", shards, order)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["ranges", "stream"])
def test_a_request_to_stop_does_not_wait_for_a_server(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """While every thread pauses before another attempt, which it does for up to 16 s."""
    monkeypatch.setattr(Source, "pause_s", 20.0)
    with served(root) as (url, faults):
        shards, (_, order) = remote(url), opened(root)
        stager = open_stager(shards, order, VOCABULARY, range(20), tmp_path / "s", read=read)
        faults.next_fault = lambda number: "500"
        begun = time.monotonic()
        before = threading.active_count()
        assert not stager.run(lambda n: None, lambda: time.monotonic() > begun + 0.5)
        assert time.monotonic() < begun + 10
        while threading.active_count() > before and time.monotonic() < begun + 15:
            time.sleep(0.05)  # the server's own threads
        assert threading.active_count() <= before  # none is left to try again
        faults.next_fault = lambda number: None
        stage(shards, order, range(20), tmp_path / "s", read=read, file_bytes=512 << 20)


def test_a_shard_that_changes_ends_it_in_one_line(root: Path, tmp_path: Path) -> None:
    with served(root) as (url, faults):
        shards, (_, order) = remote(url), opened(root)
        stager = open_stager(shards, order, VOCABULARY, range(20), tmp_path / "s", read="stream")
        before = len(faults.requests)
        faults.next_fault = lambda number: "grown" if number >= before + 2 else None
        with pytest.raises(UserError, match="where the manifest records .*: it has changed"):
            stager.run(lambda n: None)
        faults.next_fault = lambda number: None
        stage(shards, order, range(20), tmp_path / "s", read="stream", file_bytes=512 << 20)
    check_same(tmp_path / "s", *opened(root))


@pytest.mark.parametrize("read", ["ranges", "stream"])
def test_text_among_the_shards_is_not_staged(root: Path, tmp_path: Path, read: str) -> None:
    """The server says that it is binary, so only the bytes themselves tell."""
    shutil.copytree(root, tmp_path / "root")
    size = (tmp_path / "root" / NAMES[1]).stat().st_size
    (tmp_path / "root" / NAMES[1]).write_bytes((b"This file has moved to another bucket. " * size)[:size])
    with served(tmp_path / "root") as (url, _):
        source = open_source(url)
        sizes = source.sizes(NAMES)
        shards = RemoteShards(source, NAMES, [sizes[name] for name in NAMES], 64, vocab_size=50280)
        order = Order(len(shards), BATCH, SEED)
        stager = open_stager(shards, order, VOCABULARY, range(order.epoch_steps), tmp_path / "s", read=read)
        with pytest.raises(UserError, match=rf"{NAMES[1]} is not a shard of token ids but text"):
            stager.run(lambda n: None)
    assert not (tmp_path / "s" / "stage.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": range(5, 5)}, r"--steps: 5:5 holds no step; give first:beyond"),
        ({"ranks": RankRange(0, 3, 3)}, r"--ranks: 0-3/3 are not ranks of 3"),
        ({"ranks": RankRange(0, 0, 3)}, r"--ranks: a batch of 8 rows is not divisible by 3 ranks"),
        ({"read": "both"}, r"--read: 'both' is not one of auto, ranges, stream"),
        ({"at_once": 0}, r"--at-once: 0 must be at least 1"),
        ({"file_bytes": 31}, r"--file-size: 31 bytes do not hold a sequence of 32"),
    ],
)
def test_refused(root: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    shards, order = opened(root)
    with pytest.raises(UserError, match=message):
        open_stager(shards, order, VOCABULARY, **{"steps": range(5), "to": tmp_path / "s", **arguments})
    assert not (tmp_path / "s").exists()


def test_a_stage_of_more_than_the_corpus(root: Path) -> None:
    _, order = opened(root)
    for ranks, most in ((None, 22), (RankRange(0, 2, 8), 58), (RankRange(0, 0, 8), 176)):
        check_extent(order, range(most), ranks)
        with pytest.raises(UserError, match=f"stage at most {most} steps"):
            check_extent(order, range(most + 1), ranks)
