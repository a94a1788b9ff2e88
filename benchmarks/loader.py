"""The full loader against ai2-olmo's own, with sequences of 4,096 tokens, and against a dataset that costs nothing.

Every loader reads one run from its beginning on, and each of its measurements goes on where the last one ended, as a
training step does: rows that were never read before, from files in the page cache. What it has read ahead while others
were measured is taken first and not timed; else a fast loader would have a good part of its batches for nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from olmo.config import DataConfig, ModelConfig, PaddingDirection, TrainConfig
from olmo.data import DataCollator, IterableDataset, MemMapDataset
from torch.utils.data import DataLoader

from benchmarks.plan import plan_at
from benchmarks.timing import in_turns, paired_ratio, print_table
from olmo_inject.corpus.injected import InjectedCorpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.injection import Placement, Plan, PlannedTask, Uniform
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.training.loader import build_loader
from olmo_inject.vocabulary import Vocabulary

LENGTH = 4096
BATCH = 1024
RANKS = 8  # of one node: a rank's batch is 128 rows
CASES = ((RANKS, 0), (RANKS, 2), (1, 0))  # ranks and workers
BATCHES = 10  # timed in a measurement
READ_AHEAD = 8  # taken before: our four threads hold a batch each and have one in the queue each
ROUNDS = 6
SEQUENCES = BATCH * ROUNDS * (READ_AHEAD + BATCHES) + BATCH  # 0.9 GB: in the page cache, so that no disk is measured
NO_PLAN = Plan([], BATCH, seed=0)


class FreeItems(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows that cost nothing to make, for ai2-olmo's loader."""

    def __init__(self) -> None:
        self.row = torch.zeros(LENGTH, dtype=torch.int64)

    def __len__(self) -> int:
        return SEQUENCES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.row}


class FreeRows(InjectedCorpus):
    """Batches that cost nothing to make, for our loader, so that only the transfer is measured."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return SEQUENCES // BATCH * BATCH

    def rows(self, positions: np.ndarray) -> dict[str, torch.Tensor]:
        # A new tensor each time, as any dataset's: one tensor shared once would be handed over for nothing.
        return {"input_ids": torch.empty(len(positions), LENGTH, dtype=torch.int64)}


def theirs(dataset: Any, ranks: int, workers: int) -> DataLoader:
    """ai2-olmo's loader of one of `ranks` ranks, as its `build_train_dataloader` makes it."""
    stream = IterableDataset(dataset, BATCH, seed=0, shuffle=True, drop_last=True, world_size=ranks, rank=0)
    collate = DataCollator(pad_direction=PaddingDirection.right, pad_token_id=1)
    return DataLoader(stream, batch_size=BATCH // ranks, drop_last=True, collate_fn=collate, num_workers=workers)


def ours(corpus: InjectedCorpus, ranks: int, workers: int) -> DataLoader:
    """Our loader of one of `ranks` ranks."""
    cfg = TrainConfig(
        model=ModelConfig(max_sequence_length=LENGTH),
        data=DataConfig(num_workers=workers),
        global_train_batch_size=BATCH,
    )
    return build_loader(corpus, cfg, rank=0, world_size=ranks)


def write_shards(folder: Path, n: int) -> list[Path]:
    """The same sequences in `n` shards."""
    tokens = np.random.default_rng(0).integers(0, 50280, (SEQUENCES, LENGTH), dtype=np.uint16)
    paths = [folder / f"{n}-{i:04d}.npy" for i in range(n)]
    for path, part in zip(paths, np.array_split(tokens, n), strict=True):
        part.tofile(path)
    return paths


def main() -> None:
    """Print sequences per second and ratios."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_shards in (1, 1033):
            paths = write_shards(Path(folder), n_shards)
            warm(paths)
            shards = TokenShards(paths, LENGTH, vocab_size=50280)
            order = Order(len(shards), BATCH, seed=0)
            length = SEQUENCES // BATCH * BATCH
            clean = InjectedCorpus(shards, order, NO_PLAN, 50279, length)
            full = InjectedCorpus(shards, order, plan_at(Fraction(BATCH)), 50279, length)
            texts = InjectedCorpus(shards, order, plan_of_texts(Path(folder)), 50279, length)
            for ranks, workers in CASES:
                loaders = {
                    "ai2-olmo": theirs(MemMapDataset(*paths, chunk_size=LENGTH), ranks, workers),
                    "ours": ours(clean, ranks, workers),
                    "ours, every row injected": ours(full, ranks, workers),
                    "ours, 512 tokens in every row": ours(texts, ranks, workers),
                    "ours, nothing to read": ours(FreeRows(), ranks, workers),
                    "ai2-olmo, nothing to read": theirs(FreeItems(), ranks, workers),
                }
                rivals = {name: _reader(loader) for name, loader in loaders.items()}
                seconds = in_turns(rivals, ROUNDS)
                for name, values in seconds.items():
                    rows.append(
                        [
                            name,
                            f"{n_shards:,}",
                            f"{BATCH // ranks:,}",
                            str(workers),
                            f"{1 / min(values):,.0f}",
                            f"{paired_ratio(values, seconds['ai2-olmo']):.2f}",
                            f"{paired_ratio(values, seconds['ours']):.2f}",
                            f"{paired_ratio(values, seconds['ours, nothing to read']):.2f}",
                        ]
                    )
            for path in paths:
                path.unlink()
    print_table(
        f"Loader, a rank's rows of {LENGTH} tokens from a batch of {BATCH} (to reach: 3x ai2-olmo at 1,033 shards and "
        "0 workers, never below 1x; injection at every row at most 5%, of 512 tokens at most 10%; with workers within "
        "10% of nothing to read)",
        ["loader", "shards", "rows", "workers", "sequences/s", "x ai2-olmo", "x ours", "x nothing to read"],
        rows,
    )


def plan_of_texts(folder: Path) -> Plan:
    """A text of 512 tokens at a random place in every row."""
    tokens = np.random.default_rng(1).integers(2, 50000, (100, 512)).tolist()
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in tokens))
    vocabulary = Vocabulary.without_tokenizer(50280, 50279, 1)
    task = Task.build(TaskConfig("texts", "texts", options={"file": str(folder / "texts.jsonl")}), vocabulary)
    return Plan([PlannedTask(task, Uniform(Fraction(BATCH)), placement=Placement("random"))], BATCH, seed=0)


def warm(paths: list[Path]) -> None:
    """Bring the shards to the page cache, which writing them may not have done."""
    for path in paths:
        path.read_bytes()


def _reader(loader: DataLoader) -> Callable[[], float]:
    batches = iter(loader)

    def measure() -> float:
        for _ in range(READ_AHEAD):
            next(batches)
        begun = time.perf_counter()
        sequences = sum(len(batch["input_ids"]) for batch in islice(batches, BATCHES))
        return (time.perf_counter() - begun) / sequences

    return measure


if __name__ == "__main__":
    main()
