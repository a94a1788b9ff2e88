"""Texts keep every promise of the stream: any kind, place and schedule, on any ranks, from any step, in any epoch."""

from __future__ import annotations

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import EOS, vocabulary, write_shards

from olmo_inject.corpus.injected import InjectedCorpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.injection import (
    Bernoulli,
    Burst,
    ExactWindow,
    Listed,
    Phases,
    Placement,
    Plan,
    PlannedTask,
    Scattered,
    Uniform,
    windowed,
)
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.training.loader import PositionStream

LENGTH, BATCH, STEPS = 24, 12, 11
PLACES = [
    Placement(),
    Placement("end", eos="both"),
    Placement("random", eos="before"),
    Placement("offset", offset=3, eos="none"),
    Placement("document"),
    Placement("random", per_row=2),
    Placement("document", per_row=2, eos="none"),
    Placement(split=True),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """40 sequences with many ends of documents, so that 11 steps of 12 rows are four epochs."""
    folder = tmp_path_factory.mktemp("shards")
    return TokenShards(write_shards(folder, [700, 290], ids=20), LENGTH, vocab_size=200)


@pytest.fixture(scope="module")
def tasks(shards: TokenShards, tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """One of each kind, on ids of whatever sort."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    lines = [f'{{"text": {rng.integers(30, 200, n).tolist()}}}' for n in (2, 5, 9, 9)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    configs = [
        TaskConfig("texts", "texts", options={"file": str(folder / "texts.jsonl")}),
        TaskConfig("canary", "canary", options={"count": 6, "context": 3, "secret": 4, "alternatives": 2}),
        TaskConfig("copies", "copies", options={"count": 8, "context": 2, "tokens": 6, "of": "rows"}),
        TaskConfig("less", "comparison", options={"n_values": 5}),
    ]
    return [Task.build(config, vocabulary(), rows=lambda: shards) for config in configs]


def schedule_of(kind: str, task: Task, seed: int) -> PlannedTask:
    """An entry that puts at most four instances into a step."""
    n = len(task.train_ids)
    at = np.sort(np.random.default_rng(seed).integers(0, STEPS, 4))
    exact = Uniform(Fraction(5, 2))
    found = {
        "uniform": PlannedTask(task, windowed(exact, 2, None)),
        "epochs": PlannedTask(task, exact, "epochs"),
        "burst": PlannedTask(task, Burst(4, 3, 1)),
        "bernoulli": PlannedTask(task, Bernoulli(Fraction(1, 2), BATCH, seed)),
        "phases": PlannedTask(task, Phases((ExactWindow(exact, 0, 2), ExactWindow(Uniform(Fraction(4)), 5, 7)))),
        "repetitions": PlannedTask(task, ExactWindow(Uniform(Fraction(n, STEPS)), 0, STEPS), "epochs"),
        "scattered": PlannedTask(task, Scattered(n, 0, STEPS, seed), "shuffled"),
        "at": PlannedTask(task, Listed(at, np.full(4, -1), np.full(4, -1))),
    }
    return found[kind]


@settings(max_examples=20)
@given(st.data())
def test_a_stream_is_the_same_on_any_ranks_from_any_step(
    shards: TokenShards, tasks: list[Task], data: st.DataObject
) -> None:
    kinds = ("uniform", "epochs", "burst", "bernoulli", "phases", "repetitions", "scattered", "at")
    seed, entries = data.draw(st.integers(0, 99)), []
    for task in data.draw(st.permutations(tasks))[:2]:
        kind, place = data.draw(st.sampled_from(kinds)), data.draw(st.sampled_from(PLACES))
        if (place.split and kind == "at") or (place.per_row > 1 and kind == "bernoulli"):
            place = Placement()  # which an experiment may not have
        entry = schedule_of(kind, task, seed)
        entries.append(PlannedTask(task, entry.schedule, entry.draw, place))
    if sum(entry.schedule.max_count for entry in entries) > BATCH:
        entries = entries[:1]
    plan = Plan(entries, BATCH, seed, STEPS, LENGTH)
    corpus = InjectedCorpus(shards, Order(len(shards), BATCH, seed), plan, EOS, STEPS * BATCH, document_lengths=True)
    whole = [corpus.rows(np.arange(BATCH) + step * BATCH) for step in range(STEPS)]
    planned = [plan.at(step) for step in range(STEPS)]
    counted = Counter(
        (int(entry), int(instance))
        for each in planned
        for entry, instance, piece in zip(each.entry, each.instance, each.piece, strict=True)
        if piece == 0
    )
    for number, entry in enumerate(entries):
        if entry.draw != "independent" and entry.schedule.rate * STEPS == len(entry.ids):
            assert [counted[number, int(i)] for i in entry.ids] == [1] * len(entry.ids), "each exactly once"
    again = pickle.loads(pickle.dumps(corpus))
    world, first = data.draw(st.sampled_from([1, 2, 3, 4, 6])), data.draw(st.integers(0, STEPS - 1))
    threads = data.draw(st.sampled_from([0, 2]))
    for rank in range(world):
        stream = PositionStream(again, BATCH, rank=rank, world_size=world, start_index=first * BATCH, threads=threads)
        batches = list(stream)
        assert len(batches) == STEPS - first
        for expected, batch in zip(whole[first:], batches, strict=True):
            assert batch["input_ids"].tolist() == expected["input_ids"][rank::world].tolist()
            for lengths, row in zip(batch["doc_lens"], batch["input_ids"], strict=True):
                assert int(lengths.sum()) == LENGTH
                ends = np.flatnonzero(row.numpy() == EOS) + 1
                assert set(ends.tolist()) <= {0, *np.cumsum(lengths.numpy()).tolist()}
