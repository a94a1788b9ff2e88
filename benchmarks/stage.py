"""Stage from local shards, against a plain copy of as many bytes, both flushed to disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.timing import in_turns, paired_ratio, print_table
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staging import MEMORY_BYTES, open_stager
from olmo_inject.vocabulary import Vocabulary

LENGTH = 4096
SHARDS, SEQUENCES = 8, 4096  # of a shard: 268 MB in all
BATCH = 256
TENTH = range(SHARDS * SEQUENCES // BATCH // 10)  # as the first 50,000 batches of Dolma
ALL = range(SHARDS * SEQUENCES // BATCH)
ROUNDS = 3
VOCABULARY = Vocabulary.without_tokenizer(50280, 50279, 1)


def main() -> None:
    """Print MB of stage per second, and ratios to a copy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = TokenShards(_write(folder), LENGTH)
        order = Order(len(shards), BATCH, seed=6198)
        rows = []
        for steps, what in ((TENTH, "a tenth"), (ALL, "all")):
            nbytes = len(steps) * BATCH * LENGTH * 2
            rivals: dict[str, Callable[[], float]] = {
                "plain copy": _copier(shards.paths, folder, nbytes),
                "stage, ranges": _stager(shards, order, steps, folder, "ranges", MEMORY_BYTES),
                "stage, streamed into memory": _stager(shards, order, steps, folder, "stream", MEMORY_BYTES),
                "stage, streamed through the disk": _stager(shards, order, steps, folder, "stream", 0),
            }
            seconds = in_turns(rivals, ROUNDS)
            for rival, values in seconds.items():
                ratio = paired_ratio(values, seconds["plain copy"])
                rows.append([rival, what, f"{nbytes / min(values) / 1e6:,.0f}", f"{ratio:.2f}"])
    print_table(
        "Stage against a plain copy of as many bytes, flushed to disk (a stage is also hashed, read back from the disk "
        "and compared; streamed, it reads the whole corpus; through the disk, as where it does not fit the memory, it "
        "writes everything twice)",
        ["", "of the corpus", "MB of stage/s", "x plain copy"],
        rows,
    )


def _write(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"shard-{number}.npy" for number in range(SHARDS)]
    for path in paths:
        rng.integers(0, 50280, SEQUENCES * LENGTH, dtype=np.uint16).tofile(path)
    return paths


def _copier(paths: list[Path], folder: Path, nbytes: int) -> Callable[[], float]:
    def measure() -> float:
        target, left = folder / "copy", nbytes
        begun = time.perf_counter()
        with target.open("wb") as out:
            for path in paths:
                with path.open("rb") as source:
                    while left and (chunk := source.read(min(16 << 20, left))):
                        out.write(chunk)
                        left -= len(chunk)
            out.flush()
            os.fsync(out.fileno())
        seconds = time.perf_counter() - begun
        target.unlink()
        return seconds

    return measure


def _stager(
    shards: TokenShards, order: Order, steps: range, folder: Path, read: str, memory: int
) -> Callable[[], float]:
    def measure() -> float:
        to = folder / "stage"
        begun = time.perf_counter()
        how = {"read": read, "at_once": 2, "file_bytes": 128 << 20, "memory_bytes": memory}
        stager = open_stager(shards, order, VOCABULARY, steps, to, **how)
        assert stager.run(lambda n: None)
        seconds = time.perf_counter() - begun
        shutil.rmtree(to)
        return seconds

    return measure


if __name__ == "__main__":
    main()
