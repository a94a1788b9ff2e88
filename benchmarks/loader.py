"""The full loader against ai2-olmo's own, with sequences of 4,096 tokens, and against a dataset that costs nothing.

Every loader reads one run from its beginning on, and each of its measurements goes on where the last one ended, as a
training step does: rows that were never read before, from files in the page cache. What it has read ahead while others
were measured is taken first and not timed; else a fast loader would have a good part of its batches for nothing. Each
batch is copied to one int64 tensor, which stands for the device.

Seconds depend on what else the machine does. So the CPU time of the process and its workers is measured too.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
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
CASES = ((RANKS, 0), (RANKS, 2), (1, 0), (1, 2))  # ranks and workers
BATCHES = 10  # timed in a measurement
READ_AHEAD = 8  # taken before: our four threads hold a batch each and have one in the queue each
ROUNDS = 5
SEQUENCES = BATCH * ROUNDS * (READ_AHEAD + BATCHES) + BATCH  # 0.8 GB: in the page cache, so that no disk is measured
NO_PLAN = Plan([], BATCH, seed=0)


class FreeRows(InjectedCorpus):
    """Batches that cost nothing to make, for our loader, so that only the transfer is measured."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return SEQUENCES // BATCH * BATCH

    def narrow_rows(self, positions: np.ndarray) -> dict[str, torch.Tensor]:
        # A new tensor each time, as any dataset's: one tensor shared once would be handed over for nothing.
        return {"input_ids": torch.empty(len(positions), LENGTH, dtype=torch.uint16)}


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
    """Print rates, CPU time, and ratios of both."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_shards in (1, 1033):
            paths = write_shards(Path(folder), n_shards)
            for path in paths:
                path.read_bytes()  # into the page cache, where writing may not have left them
            shards = TokenShards(paths, LENGTH, vocab_size=50280)
            order = Order(len(shards), BATCH, seed=0)
            plans = {
                "ours": NO_PLAN,
                "ours, every row injected": plan_at(Fraction(BATCH)),
                "ours, 512 tokens in every row": plan_of_texts(Path(folder)),
            }
            corpora = {
                name: InjectedCorpus(shards, order, plan, 50279, SEQUENCES // BATCH * BATCH)
                for name, plan in plans.items()
            } | {"ours, nothing to read": FreeRows()}
            for ranks, workers in CASES:
                loaders = {"ai2-olmo": theirs(MemMapDataset(*paths, chunk_size=LENGTH), ranks, workers)}
                loaders |= {name: ours(corpus, ranks, workers) for name, corpus in corpora.items()}
                rows += _case(loaders, [f"{n_shards:,}", f"{BATCH // ranks:,}", str(workers)])
            for path in paths:
                path.unlink()
    print_table(
        f"Loader, a rank's rows of {LENGTH} tokens from a batch of {BATCH} (to reach: 3x ai2-olmo; injection "
        "at every row at most 5% of CPU, of 512 tokens at most 10%)",
        ["loader", "shards", "rows", "workers", "sequences/s", "x ai2-olmo", "CPU us", "CPU x ai2-olmo", "CPU / ours"],
        rows,
    )


def _case(loaders: dict[str, DataLoader], about: list[str]) -> list[list[str]]:
    """The table's rows of one case: a measured loader each."""
    readers = {name: Reader(loader) for name, loader in loaders.items()}
    seconds = in_turns(readers, ROUNDS)
    cpu = {name: reader.cpu for name, reader in readers.items()}
    return [
        [
            name,
            *about,
            f"{1 / min(seconds[name]):,.0f}",
            f"{paired_ratio(seconds[name], seconds['ai2-olmo']):.2f}",
            f"{min(cpu[name]) * 1e6:.1f}",
            f"{paired_ratio(cpu[name], cpu['ai2-olmo']):.2f}",
            f"{paired_ratio(cpu['ours'], cpu[name]):.2f}",
        ]
        for name in loaders
    ]


def plan_of_texts(folder: Path) -> Plan:
    """A text of 512 tokens at a random place in every row."""
    tokens = np.random.default_rng(1).integers(2, 50000, (100, 512)).tolist()
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in tokens))
    vocabulary = Vocabulary.without_tokenizer(50280, 50279, 1)
    task = Task.build(TaskConfig("texts", "texts", options={"file": str(folder / "texts.jsonl")}), vocabulary)
    return Plan([PlannedTask(task, Uniform(Fraction(BATCH)), placement=Placement("random"))], BATCH, seed=0)


class Reader:
    """Takes batches from a loader. A call returns seconds per sequence, and `cpu` gets the CPU seconds of each call."""

    def __init__(self, loader: DataLoader) -> None:
        self.batches: Iterator[dict[str, Any]] = iter(loader)
        self.workers = [worker.pid for worker in getattr(self.batches, "_workers", ())]
        self.device = torch.zeros(0, dtype=torch.int64)
        self.cpu: list[float] = []

    def __call__(self) -> float:
        self._take(READ_AHEAD)
        cpu, begun = self._cpu_seconds(), time.perf_counter()
        sequences = self._take(BATCHES)
        seconds = time.perf_counter() - begun
        self.cpu.append((self._cpu_seconds() - cpu) / sequences)
        return seconds / sequences

    def _take(self, batches: int) -> int:
        sequences = 0
        for batch in islice(self.batches, batches):
            tokens = batch["input_ids"]
            if self.device.shape != tokens.shape:
                self.device = torch.zeros(tokens.shape, dtype=torch.int64)
            self.device.copy_(tokens)
            sequences += len(tokens)
        return sequences

    def _cpu_seconds(self) -> float:
        """CPU seconds so far of all threads of this process and of the loader's workers."""
        clocks = [~pid << 3 | 2 for pid in self.workers]  # Linux's clockid of another process's CPU time
        return time.process_time() + sum(map(time.clock_gettime, clocks))


if __name__ == "__main__":
    main()
