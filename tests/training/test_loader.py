"""The loader: every rank, worker and resume sees its part of one stream, ai2-olmo's own but for the injections."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import EOS, PAD, write_shards
from olmo.config import DataConfig, PaddingDirection, TrainConfig
from olmo.data import DataCollator, IterableDataset, MemMapDataset
from plans import TASKS, draw_plan
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

from olmo_inject.corpus.injected import InjectedCorpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import FoundByOneRank
from olmo_inject.injection import Bernoulli, Burst, Plan, PlannedTask, Uniform
from olmo_inject.training.loader import PositionStream, build_loader

LENGTH, SEED = 6, 6198
# Text without the tasks' tokens, so that a row itself says what was injected into it.
TEXT = np.setdiff1d(np.arange(200), np.concatenate([task.tokens for task in TASKS]))
WHICH = {
    tuple(tokens): (number, instance)
    for number, task in enumerate(TASKS)
    for instance, tokens in enumerate(task.instances.tolist())
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("shards"), [201, 100, 80], ids=TEXT)  # 62 sequences


@pytest.fixture(scope="module")
def sequences(paths: list[Path]) -> list[dict[str, Any]]:
    """ai2-olmo's dataset of the same shards, read once."""
    memmap = MemMapDataset(*paths, chunk_size=LENGTH, include_instance_metadata=False)
    return [memmap[i] for i in range(len(memmap))]


def corpus_of(paths: list[Path], plan: Plan, steps: int, **options: Any) -> InjectedCorpus:
    shards = TokenShards(paths, LENGTH)
    order = Order(len(shards), plan.batch_size, SEED)
    return InjectedCorpus(shards, order, plan, EOS, steps * plan.batch_size, **options)


@contextmanager
def as_worker(number: int, workers: int, dataset: Any) -> Iterator[None]:
    """What torch's DataLoader sets in a worker process before it iterates the dataset."""
    info = torch_worker.WorkerInfo(id=number, num_workers=workers, seed=0, dataset=dataset)
    torch_worker._worker_info = info  # type: ignore[assignment]
    try:
        yield
    finally:
        torch_worker._worker_info = None


def in_turns(dataset: Any, workers: int, rows: int) -> Iterator[Any]:
    """The batches of a DataLoader: lists of `rows` items (or single items where 0), worker after worker."""

    def batches(items: Iterator[Any]) -> Iterator[Any]:
        return items if not rows else iter(lambda: list(islice(items, rows)), [])

    if not workers:
        yield from batches(iter(dataset))
        return
    streams = []
    for number in range(workers):
        with as_worker(number, workers, dataset):
            streams.append(batches(iter(dataset)))
    while True:
        for stream in streams:
            if (batch := next(stream, None)) is None:
                return
            yield batch


def theirs(sequences: list[dict[str, Any]], size: int, *, rank: int, world: int, epoch: int, start: int) -> Any:
    """ai2-olmo's own stream of an epoch, as its trainer sets it."""
    return IterableDataset(
        sequences,
        size,
        seed=SEED,
        epoch=epoch,
        start_index=start,
        drop_last=True,
        world_size=world,
        rank=rank,
        fs_local_rank=0,
        num_threads=0,
    )


@given(st.data(), st.integers(1, 16), st.integers(1, 3), st.integers(0, 4), st.integers(1, 9))
def test_one_stream_whoever_asks(
    paths: list[Path],
    sequences: list[dict[str, Any]],
    data: st.DataObject,
    world: int,
    rank_rows: int,
    workers: int,
    steps: int,
) -> None:
    """World sizes, workers, resumes and epochs change neither what is injected nor what is around it."""
    size = world * rank_rows
    plan = draw_plan(data, size)
    resume = data.draw(st.integers(0, steps - 1))
    per_epoch = len(sequences) // size
    corpus = corpus_of(paths, plan, steps)
    found: list[tuple[int, int, int, int]] = []
    positions: list[int] = []
    for rank in range(world):
        stream = PositionStream(corpus, size, rank=rank, world_size=world, start_index=resume * size, threads=0)
        batches = list(in_turns(stream, workers, 0))
        assert len(batches) == steps - resume
        for step, batch in enumerate(batches, resume):
            epoch, within = divmod(step, per_epoch)
            positions += batch["index"].tolist()
            hosts = theirs(sequences, size, rank=rank, world=world, epoch=epoch, start=within * size)
            expected = next(in_turns(hosts, workers, rank_rows))
            assert batch["input_ids"].dtype == torch.uint16  # as they are stored: a quarter of int64's bytes
            for position, row, host in zip(batch["index"].tolist(), batch["input_ids"].tolist(), expected, strict=True):
                assert position // size == step
                known = WHICH.get(tuple(row[:3]))
                spliced = 0 if known is None else 4
                assert row[spliced:] == host["input_ids"].tolist()[spliced:]
                if known is not None:
                    assert row[3] == EOS
                    found.append((step, position % size, *known))
    assert sorted(positions) == list(range(resume * size, steps * size))
    fresh = Plan(plan.entries, size, plan.seed)
    assert sorted(found) == sorted(
        (step, *entry)
        for step in range(resume, steps)
        for entry in zip(*(column.tolist() for column in fresh.at(step)[:3]), strict=True)
    )


SIZE = 12
MIXED = Plan(
    [
        PlannedTask(TASKS[0], Uniform(Fraction(5, 3)), "epochs"),
        PlannedTask(TASKS[1], Burst(3, 3, 1)),
        PlannedTask(TASKS[2], Bernoulli(Fraction(1, 50), SIZE, 4)),
    ],
    SIZE,
    0,
)


def config(workers: int) -> TrainConfig:
    return TrainConfig(global_train_batch_size=SIZE, data=DataConfig(num_workers=workers, drop_last=True))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "workers", "resume"), [(1, 0, 0), (1, 1, 2), (2, 2, 0), (3, 0, 3), (2, 2, 7)])
def test_real_loaders_against_ai2_olmos(paths: list[Path], world: int, workers: int, resume: int) -> None:
    """Its DataLoader, collator, processes and threads; 62 sequences make epochs of five batches of 12."""
    corpus = corpus_of(paths, MIXED, 9)
    memmap = MemMapDataset(*paths, chunk_size=LENGTH, include_instance_metadata=False)
    collator = DataCollator(pad_direction=PaddingDirection.right, pad_token_id=PAD)
    for rank in range(world):
        loader = build_loader(corpus, config(workers), rank, world)
        loader.dataset.start_index = resume * SIZE  # type: ignore[attr-defined]  # as ai2-olmo's trainer does
        ours = list(loader)
        hosts: list[dict[str, Any]] = []
        for epoch in range(resume // 5, 2):
            start = max(0, resume - 5 * epoch) * SIZE
            stream = theirs(memmap, SIZE, rank=rank, world=world, epoch=epoch, start=start)  # type: ignore[arg-type]
            stream.num_threads = None  # its own default: four, without workers
            hosts += DataLoader(
                stream, batch_size=SIZE // world, drop_last=True, collate_fn=collator, num_workers=workers
            )
        assert len(ours) == 9 - resume
        for step, (batch, host) in enumerate(zip(ours, hosts, strict=False), resume):
            positions = batch["index"].numpy()
            assert (positions // SIZE == step).all()
            np.testing.assert_array_equal(corpus.order[positions], host["index"].numpy())
            injected = MIXED.tasks_of(step, positions % SIZE) >= 0
            tokens = batch["input_ids"].long()
            assert torch.equal(tokens[~injected], host["input_ids"][~injected])
            assert torch.equal(tokens[:, 4:], host["input_ids"][:, 4:])


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (0, 1), (0, 4), (1, 4), (2, 4)])
def test_batches_are_the_items_of_the_corpus(paths: list[Path], workers: int, threads: int) -> None:
    """Under ai2-olmo's keys and its collator's rules."""
    corpus = corpus_of(paths, MIXED, 8, instance_filter=lambda tokens: bool(tokens.sum() % 3), document_lengths=True)
    collator = DataCollator(pad_direction=PaddingDirection.right, pad_token_id=PAD)
    stream = PositionStream(corpus, SIZE, rank=1, world_size=3, threads=threads)
    if workers:
        loader = build_loader(corpus, config(workers), rank=1, world_size=3)
        assert isinstance(loader.dataset, PositionStream)
        batches = list(loader)
    else:
        batches = list(stream)
    assert len(batches) == 8
    for step, batch in enumerate(batches):
        positions = range(step * SIZE + 1, step * SIZE + SIZE, 3)
        items = [corpus[position] for position in positions]
        # Its collator wants a plain bool.
        expected = collator(
            [
                item | {"index": p, "instance_mask": item["instance_mask"].item()}
                for p, item in zip(positions, items, strict=True)
            ]
        )
        assert batch.keys() == expected.keys() | {"mask_overridden"}
        batch["input_ids"] = batch["input_ids"].long()
        for key, value in expected.items():
            assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value, key


def test_loader_without_workers_reads_ahead_in_threads(paths: list[Path]) -> None:
    loader = build_loader(corpus_of(paths, MIXED, 8), config(0), 0, 1)
    assert loader.dataset.num_threads == 4  # type: ignore[attr-defined]
    assert [batch["index"][0].item() for batch in loader] == [step * SIZE for step in range(8)]


@pytest.mark.parametrize(("workers", "threads"), [(0, 0), (0, 4), (2, 0)])
def test_a_users_error_arrives_as_one(tmp_path: Path, workers: int, threads: int) -> None:
    """A foreign id in the corpus, met only in the middle of training."""
    paths = write_shards(tmp_path, [SIZE * LENGTH * 5], ids=TEXT)
    shards = TokenShards(paths, LENGTH, vocab_size=200)
    order = Order(len(shards), SIZE, SEED)
    tokens = np.fromfile(paths[0], np.uint16)
    tokens[int(order[np.array([3 * SIZE])][0]) * LENGTH + 2] = 777  # in step 3
    tokens.tofile(paths[0])
    corpus = InjectedCorpus(TokenShards(paths, LENGTH, vocab_size=200), order, MIXED, EOS, 5 * SIZE)
    batches: Any = (
        build_loader(corpus, config(workers), 0, 1)
        if workers
        else PositionStream(corpus, SIZE, rank=0, world_size=1, threads=threads)
    )
    seen = []
    with pytest.raises(FoundByOneRank) as refused:  # no other rank reads these rows
        seen += (int(batch["index"][0]) // SIZE for batch in batches)
    # From a worker process torch brings the traceback along; the command line prints the last line.
    message = str(refused.value).strip().splitlines()[-1]
    assert "part-00000.npy holds token id 777 in sequence" in message
    assert workers or "\n" not in str(refused.value)


@pytest.mark.slow
def test_other_errors_in_threads_are_not_hidden(paths: list[Path]) -> None:
    corpus = corpus_of(paths, MIXED, 8, instance_filter=lambda tokens: 1 / 0 > 1)
    with pytest.raises(Exception, match="data thread 0 failed") as raised:
        list(PositionStream(corpus, SIZE, rank=0, world_size=1))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_memory_does_not_grow_with_the_length_of_the_run(tmp_path: Path) -> None:
    """50,000 batches of 1,024 with an instance in every row: 51.2M positions, none of them listed."""
    paths = write_shards(tmp_path, [2048 * 4])
    tracemalloc.start()
    try:
        plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(1024)))], 1024, 0)
        shards = TokenShards(paths, 4)
        corpus = InjectedCorpus(shards, Order(2048, 1024, 0), plan, EOS, 50_000 * 1024)
        stream = PositionStream(corpus, 1024, rank=3, world_size=8, start_index=49_997 * 1024)
        assert stream.total_size == 51_200_000
        assert [int(batch["index"][0]) for batch in stream] == [step * 1024 + 3 for step in (49_997, 49_998, 49_999)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10e6
