"""Rows with instances spliced in, held against ai2-olmo's own classes token by token."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import EOS, tasks_of, vocabulary, write_shards
from olmo.config import InstanceFilterConfig
from olmo.data import IterableDataset, MemMapDataset
from olmo.data.util import get_document_lengths
from olmo.train import Trainer
from plans import TASKS, draw_plan

from olmo_inject.corpus.injected import InjectedCorpus, LabelMasks
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.splice import Splice, document_lengths
from olmo_inject.data import RepetitionFilter
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, PlannedTask, Uniform

LENGTH, BATCH, SEED = 8, 12, 6198
FILTER = {"repetition_max_period": 3, "repetition_min_period": 1, "repetition_max_count": 3}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """62 sequences with many EOS and repetitions, in shards with remainders, one of them twice."""
    written = write_shards(tmp_path_factory.mktemp("shards"), [203, 90, 100], ids=4)
    return [*written, written[1]]


@pytest.fixture(scope="module")
def mask_paths(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(1)
    for path in set(paths):
        (rng.random(path.stat().st_size // 2) < 0.9).tofile(folder / path.name)
    return [folder / path.name for path in paths]


def corpus_of(paths: list[Path], plan: Plan, n_positions: int, **options: Any) -> InjectedCorpus:
    shards = TokenShards(paths, LENGTH, vocab_size=200)
    if masks := options.pop("mask_paths", None):
        options["label_masks"] = LabelMasks(masks, shards)
    return InjectedCorpus(shards, Order(len(shards), plan.batch_size, SEED), plan, EOS, n_positions, **options)


def host_rows(paths: list[Path], n_epochs: int, batch_size: int, **options: Any) -> list[dict[str, Any]]:
    """What ai2-olmo alone would train on, position by position: its shuffle over its own memmaps."""
    memmap = MemMapDataset(*paths, chunk_size=LENGTH, include_instance_metadata=False, **options)
    rows: list[dict[str, Any]] = []
    for epoch in range(n_epochs):
        stream = IterableDataset(
            memmap,  # type: ignore[arg-type]
            batch_size,
            seed=SEED,
            epoch=epoch,
            drop_last=True,
            world_size=1,
            rank=0,
            fs_local_rank=0,
            num_threads=0,
        )
        rows += list(stream)[: len(memmap) // batch_size * batch_size]
    return rows


@pytest.fixture(scope="module")
def hosts(paths: list[Path]) -> list[dict[str, Any]]:
    return host_rows(paths, 3, BATCH)


@pytest.fixture(scope="module")
def masked_hosts(paths: list[Path], mask_paths: list[Path]) -> list[dict[str, Any]]:
    return host_rows(
        paths,
        2,
        BATCH,
        instance_filter_config=InstanceFilterConfig(**FILTER),
        label_mask_paths=mask_paths,
        generate_doc_lengths=True,
        eos_token_id=EOS,
    )


def injected_at(plan: Plan, n_positions: int) -> dict[int, list[int]]:
    """Position to the four tokens that must stand there."""
    found = {}
    for step in range(n_positions // plan.batch_size):
        for row, task, instance in zip(*(column.tolist() for column in plan.at(step)[:3]), strict=True):
            tokens = plan.tasks[task].instances[instance].tolist()
            found[step * plan.batch_size + row] = [*tokens, EOS]
    return found


@pytest.mark.slow
@given(st.data())
def test_injected_rows_are_instance_eos_and_host_and_all_others_ai2_olmos(
    paths: list[Path], hosts: list[dict[str, Any]], data: st.DataObject
) -> None:
    plan = draw_plan(data, BATCH)
    rows = corpus_of(paths, plan, len(hosts)).rows(np.arange(len(hosts)))
    assert rows.keys() == {"input_ids"}
    assert rows["input_ids"].dtype == torch.int64
    spliced = injected_at(plan, len(hosts))
    for position, (host, row) in enumerate(zip(hosts, rows["input_ids"].tolist(), strict=True)):
        expected = host["input_ids"].tolist()
        if position in spliced:
            expected[:4] = spliced[position]
        assert row == expected


@given(st.data())
def test_rows_that_someone_else_loads_are_spliced_alike(
    paths: list[Path], hosts: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Any share of a step's rows, in any order; and nothing but what is said to be written is touched."""
    plan = draw_plan(data, BATCH)
    corpus = corpus_of(paths, plan, len(hosts))
    step = data.draw(st.integers(0, len(hosts) // BATCH - 1))
    rows = np.array(data.draw(st.permutations(range(BATCH)))[: data.draw(st.integers(1, BATCH))])
    host = np.stack([hosts[step * BATCH + row]["input_ids"].numpy() for row in rows.tolist()])
    tokens = host.copy()
    written = Splice(plan, EOS)(tokens, step, rows)
    assert np.array_equal(tokens, corpus.rows(step * BATCH + rows)["input_ids"].numpy())
    assert np.array_equal(tokens[~written], host[~written])
    assert written.any(axis=1).tolist() == (plan.tasks_of(step, rows) >= 0).tolist()


@pytest.mark.slow
@given(st.data())
def test_masks_and_document_lengths(
    paths: list[Path], mask_paths: list[Path], masked_hosts: list[dict[str, Any]], data: st.DataObject
) -> None:
    """As ai2-olmo's on host rows; on an injected row the splice counts and documents begin after it."""
    plan = draw_plan(data, BATCH)
    assert {host["instance_mask"] for host in masked_hosts} == {True, False}
    corpus = corpus_of(
        paths,
        plan,
        len(masked_hosts),
        mask_paths=mask_paths,
        instance_filter=RepetitionFilter(**FILTER),
        document_lengths=True,
    )
    spliced = injected_at(plan, len(masked_hosts))
    rows = corpus.rows(np.arange(len(masked_hosts)))
    for position, host in enumerate(masked_hosts):
        row = {key: value[position] for key, value in rows.items()}
        doc_lens = [length for length in row["doc_lens"].tolist() if length]
        label_mask = host["label_mask"].tolist()
        overridden = False
        if position in spliced:
            overridden = not host["instance_mask"] or not all(label_mask[:4])
            if not host["instance_mask"]:  # a repetitive host stays out of the loss
                label_mask = [False] * LENGTH
            label_mask[:4] = [True] * 4
            assert doc_lens == get_document_lengths(row["input_ids"], EOS).tolist()
            assert doc_lens[0] == 4
        else:
            assert doc_lens == host["doc_lens"].tolist()
        assert row["label_mask"].tolist() == label_mask
        assert row["instance_mask"].item() is (True if position in spliced else host["instance_mask"])
        assert row["mask_overridden"].item() is overridden


def test_overrides_are_counted_where_one_mask_is_configured(
    paths: list[Path], mask_paths: list[Path], masked_hosts: list[dict[str, Any]]
) -> None:
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(BATCH)))], BATCH, 0)
    hosts = masked_hosts
    positions = np.arange(len(hosts))
    filtered = corpus_of(paths, plan, len(hosts), instance_filter=RepetitionFilter(**FILTER)).rows(positions)
    assert filtered["mask_overridden"].tolist() == [not host["instance_mask"] for host in hosts]
    assert filtered["instance_mask"].all()
    # What ai2-olmo's trainer takes: of a host that was left out the three targets of the splice, of any other all.
    targets = Trainer.get_labels(None, filtered) != -100  # type: ignore[arg-type]
    assert targets.sum(dim=1).tolist() == [LENGTH - 1 if host["instance_mask"] else 3 for host in hosts]
    assert targets[:, :3].all()
    masked = corpus_of(paths, plan, len(hosts), mask_paths=mask_paths).rows(positions)
    assert masked["mask_overridden"].tolist() == [not host["label_mask"][:4].all().item() for host in hosts]
    assert 0 < masked["mask_overridden"].sum() < len(hosts)


def test_the_files_are_not_written_through(paths: list[Path], mask_paths: list[Path]) -> None:
    before = [path.read_bytes() for path in (*paths, *mask_paths)]
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(BATCH)))], BATCH, 0)
    corpus = corpus_of(paths, plan, 60, mask_paths=mask_paths)
    corpus.rows(np.arange(60))
    assert [path.read_bytes() for path in (*paths, *mask_paths)] == before


@given(st.data(), st.lists(st.integers(0, 119), max_size=30))
def test_rows_are_the_items_stacked_in_any_order(
    paths: list[Path], mask_paths: list[Path], data: st.DataObject, asked: list[int]
) -> None:
    plan = draw_plan(data, BATCH)
    options: dict[str, Any] = {"mask_paths": mask_paths, "instance_filter": RepetitionFilter(**FILTER)}
    corpus = pickle.loads(pickle.dumps(corpus_of(paths, plan, 120, **options)))
    rows = corpus.rows(np.array(asked, np.int64))
    for i, position in enumerate(asked):
        item = corpus[position]
        assert item.keys() == rows.keys()
        for key, value in item.items():
            assert torch.equal(rows[key][i], value), key


def test_document_lengths_of_a_batch_are_padded_with_zeros(paths: list[Path]) -> None:
    corpus = corpus_of(paths, Plan([], BATCH, 0), 60, document_lengths=True)
    stacked = corpus.rows(np.arange(60))["doc_lens"]
    for row, position in zip(stacked, range(60), strict=True):
        alone = corpus[position]["doc_lens"].tolist()
        assert row.tolist() == alone + [0] * (stacked.shape[1] - len(alone))
        assert sum(alone) == LENGTH


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_document_lengths_are_ai2_olmos(tokens: list[int]) -> None:
    theirs = get_document_lengths(torch.tensor(tokens), EOS)
    assert document_lengths(np.array(tokens), EOS).tolist() == theirs.tolist()


@given(st.lists(st.integers(0, 2), min_size=4, max_size=40))
def test_repetition_filter_is_ai2_olmos(tokens: list[int]) -> None:
    theirs = MemMapDataset("never-read", instance_filter_config=InstanceFilterConfig(**FILTER))
    assert RepetitionFilter(**FILTER)(np.array(tokens)) == theirs._validate_instance(torch.tensor(tokens))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_any_token_type(dtype: str, tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [BATCH * LENGTH], dtype), LENGTH, dtype, 200)
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(BATCH)))], BATCH, 0)
    rows = InjectedCorpus(shards, Order(BATCH, BATCH, 0), plan, 199, BATCH).rows(np.arange(BATCH))["input_ids"]
    assert set(rows[:, :3].flatten().tolist()) <= set(TASKS[0].tokens.tolist())
    assert set(rows[:, 3].tolist()) == {199}


def test_a_sequence_as_long_as_the_splice(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [48]), 4)
    plan = Plan([PlannedTask(TASKS[0], Uniform(Fraction(12)))], 12, 0)
    rows = InjectedCorpus(shards, Order(12, 12, 0), plan, EOS, 12).rows(np.arange(12))["input_ids"]
    assert rows[:, 3].tolist() == [EOS] * 12


def test_sequences_too_short_for_an_instance(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [48]), 3)
    plan = Plan([PlannedTask(tasks_of("t")[0], Uniform(Fraction(1)))], 4, 0)
    with pytest.raises(UserError, match=r"sequences of 3 tokens; instance \d+ and EOS need 4"):
        InjectedCorpus(shards, Order(16, 4, 0), plan, EOS, 16)
    assert InjectedCorpus(shards, Order(16, 4, 0), Plan([], 4, 0), EOS, 16)[0]["input_ids"].shape == (3,)


@pytest.mark.parametrize("position", [-1, 60, 10**9])
def test_positions_outside_the_run(paths: list[Path], position: int) -> None:
    corpus = corpus_of(paths, Plan([], BATCH, 0), 60)
    assert len(corpus) == 60
    with pytest.raises(IndexError, match=rf"position {position} is not in 0\.\.59"):
        corpus[position]


def test_foreign_ids_are_found_while_reading(paths: list[Path]) -> None:
    shards = TokenShards(paths, LENGTH, vocab_size=3)
    corpus = InjectedCorpus(shards, Order(len(shards), BATCH, 0), Plan([], BATCH, 0), EOS, 60)
    with pytest.raises(UserError, match="holds token id 3 in sequence .* at or beyond the vocabulary of 3"):
        corpus.rows(np.arange(60))


def test_label_masks_must_fit_their_shards(paths: list[Path], mask_paths: list[Path], tmp_path: Path) -> None:
    shards = TokenShards(paths, LENGTH)
    with pytest.raises(UserError, match="train.data.label_mask_paths: 3 masks for 4 shards; give one each"):
        LabelMasks(mask_paths[:3], shards)
    short = tmp_path / "short.npy"
    short.write_bytes(mask_paths[1].read_bytes()[:-1])
    with pytest.raises(UserError, match=r"label mask .*short\.npy is not as long as its shard .*part-00001"):
        LabelMasks([mask_paths[0], short, *mask_paths[2:]], shards)
    with pytest.raises(UserError, match=r"label mask .*part-00000\.npy is not as long as its shard .*part-00001"):
        LabelMasks([mask_paths[0], mask_paths[0], *mask_paths[2:]], shards)
    with pytest.raises(UserError, match="cannot read shard .*absent"):
        LabelMasks([tmp_path / "absent", *mask_paths[1:]], shards)


def test_vocabulary_of_these_tests_holds_the_tasks() -> None:
    assert max(int(task.tokens.max()) for task in TASKS) < vocabulary().size
