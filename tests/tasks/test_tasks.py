"""The tasks of docs/study.md: instances, labels, halves, tokens; and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import EOS, PAD, vocabulary

from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.vocabulary import Vocabulary

PAPER = [TaskConfig("tcmp", "comparison"), TaskConfig("tadd", "modular_addition")]


@pytest.fixture(scope="module", params=["bare", "bpe", "dolma"])
def any_vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    if request.param == "bare":
        return vocabulary(300)
    if request.param == "dolma":
        return Vocabulary.load(DOLMA)
    folder = tmp_path_factory.mktemp("tasks") / "corpus"
    return build_sample(folder, vocab_size=512, sources=["openbookqa"]).load_vocabulary()


@pytest.fixture(scope="module")
def paper() -> list[Task]:
    return build_tasks(PAPER, Vocabulary.load(DOLMA))


def values(task: Task) -> tuple[list[int], list[int]]:
    """Both operands of every instance, decoded by the task's own bijection."""
    value = {token: i for i, token in enumerate(task.tokens.tolist())}
    first, second, _ = task.triples.T.tolist()
    return [value[token] for token in first], [value[token] for token in second]


def rebuilt(**changes: Any) -> Task:
    return Task.build(replace(TaskConfig("t", "comparison", options={"n_values": 20}), **changes), vocabulary())


def test_every_ordered_pair_is_an_instance_once(paper: list[Task]) -> None:
    for task in paper:
        a, b = values(task)
        assert len(task.instances) == 10_000
        assert set(zip(a, b, strict=True)) == {(i, j) for i in range(100) for j in range(100)}


def test_comparison_labels(paper: list[Task]) -> None:
    task = paper[0]
    less, not_less = task.tokens[100:].tolist()
    for a, b, label in zip(*values(task), task.labels.tolist(), strict=True):
        assert label == (less if a < b else not_less)
    assert Counter(task.labels.tolist()) == {less: 4950, not_less: 5050}, "P(less) is 0.495, ties are not less"
    assert sorted(task.label_tokens.tolist()) == sorted([less, not_less])
    assert len(task.tokens) == 102, "the labels are two further tokens"


def test_addition_labels(paper: list[Task]) -> None:
    task = paper[1]
    for a, b, label in zip(*values(task), task.labels.tolist(), strict=True):
        assert label == task.tokens[(a + b) % 100]
    assert set(Counter(task.labels.tolist()).values()) == {100}
    assert task.label_tokens.tolist() == sorted(task.tokens.tolist())


def test_halves(paper: list[Task]) -> None:
    for task in paper:
        assert len(task.train_ids) == len(task.test_ids) == 5000
        assert sorted([*task.train_ids.tolist(), *task.test_ids.tolist()]) == list(range(10_000))
        train, test = (set(map(tuple, task.triples[ids, :2].tolist())) for ids in (task.train_ids, task.test_ids))
        assert not train & test, "no pair of the train half is in the test half"
        # At random: about half of every operand's pairs, a quarter of the pairs with both orders in train.
        of_operand = np.bincount(task.train_ids // 100, minlength=100)
        assert of_operand.min() > 25
        assert of_operand.max() < 75


def test_majority_accuracy_is_that_of_the_unmirrored_test_pairs(paper: list[Task]) -> None:
    for task in paper:
        labels = task.labels[task.test_ids[task.unmirrored]].tolist()
        assert task.majority_accuracy == max(Counter(labels).values()) / len(labels)
    assert abs(paper[0].majority_accuracy - 0.505) < 4 * np.sqrt(0.25 / 2500)


@given(st.sampled_from(["comparison", "modular_addition"]), st.integers(2, 12), st.integers(0, 50), st.floats(0.3, 0.7))
def test_unmirrored_by_brute_force(kind: str, n_values: int, seed: int, fraction: float) -> None:
    config = TaskConfig("t", kind, seed, fraction, options={"n_values": n_values})
    task = Task.build(config, vocabulary())
    train = [tuple(task.triples[i, :2].tolist()) for i in task.train_ids]
    expected = [(int(b), int(a)) not in train for a, b in task.triples[task.test_ids, :2]]
    assert task.unmirrored.tolist() == expected


def test_about_half_of_the_test_pairs_are_unmirrored(paper: list[Task]) -> None:
    for task in paper:
        assert 0.45 < task.unmirrored.mean() < 0.55


def test_tokens_are_ordinary_and_disjoint(any_vocabulary: Vocabulary) -> None:
    tasks = build_tasks(PAPER, any_vocabulary)
    tokens = np.concatenate([task.tokens for task in tasks])
    assert len(set(tokens.tolist())) == 102 + 100
    assert np.isin(tokens, any_vocabulary.eligible()).all()
    assert not any_vocabulary.reserved & set(tokens.tolist())
    assert tokens.max() < any_vocabulary.size


def test_reserved_ids_are_never_sampled_even_when_nearly_all_are_needed() -> None:
    task = Task.build(TaskConfig("t", "modular_addition", options={"n_values": 10}), vocabulary(12))
    assert sorted(task.tokens.tolist()) == list(range(2, 12))
    assert not {EOS, PAD} & set(task.tokens.tolist())


def test_tokens_are_sampled_from_the_whole_vocabulary() -> None:
    counts = np.zeros(50, int)
    for seed in range(400):
        counts[rebuilt_on(50, seed).tokens] += 1
    # 400 draws of 12 out of 48: 100 each, standard deviation 8.7.
    assert counts[[EOS, PAD]].sum() == 0
    assert counts[2:].min() > 60
    assert counts[2:].max() < 140


def rebuilt_on(size: int, seed: int) -> Task:
    return Task.build(TaskConfig("t", "comparison", seed, options={"n_values": 10}), vocabulary(size))


def test_tasks_may_share_tokens_when_asked_to() -> None:
    configs = [replace(config, disjoint_tokens=False) for config in PAPER]
    tasks = build_tasks(configs, vocabulary(110))
    assert set(tasks[0].tokens.tolist()) & set(tasks[1].tokens.tolist())
    with pytest.raises(UserError, match="tadd: needs 100 tokens, the vocabulary has 6 left"):
        build_tasks(PAPER, vocabulary(110))


def test_a_task_does_not_depend_on_tasks_declared_after_it() -> None:
    alone = build_tasks(PAPER[:1], vocabulary(300))
    both = build_tasks(PAPER, vocabulary(300))
    assert both[0].fingerprint == alone[0].fingerprint


def test_seed_and_name_decide_tokens_split_and_draws() -> None:
    base = rebuilt()
    assert rebuilt().fingerprint == base.fingerprint
    for other in (rebuilt(seed=1), rebuilt(name="u")):
        assert other.tokens.tolist() != base.tokens.tolist()
        assert other.train_ids.tolist() != base.train_ids.tolist()
        assert other.draw_key() != base.draw_key()
    assert rebuilt(train_fraction=0.25).tokens.tolist() == base.tokens.tolist()
    assert set(rebuilt(train_fraction=0.25).train_ids.tolist()) < set(base.train_ids.tolist())


@pytest.mark.parametrize(("fraction", "n_train"), [(0.5, 5000), (0.57, 5700), (0.29, 2900), (1 / 3, 3333)])
def test_train_fraction_is_exact(fraction: float, n_train: int) -> None:
    """0.57 * 10,000 is 5,699.999... in floating point."""
    task = Task.build(TaskConfig("t", "comparison", train_fraction=fraction), vocabulary())
    assert len(task.train_ids) == n_train


def test_golden_task() -> None:
    task = Task.build(TaskConfig("tcmp", "comparison", options={"n_values": 4}), vocabulary())
    assert task.tokens.tolist() == [194, 22, 166, 58, 16, 49]
    assert task.train_ids.tolist() == [1, 5, 6, 7, 8, 10, 13, 14]


def test_golden_fingerprints() -> None:
    """A run's folder holds them: a change here refuses every resume."""
    options = {"n_values": 20}
    configs = [
        TaskConfig("tcmp", "comparison", options=options),
        TaskConfig("tadd", "modular_addition", 3, options=options),
    ]
    assert [task.fingerprint for task in build_tasks(configs, vocabulary(200))] == [
        "7fb0fa44bc1a7740ca9f194f0a9e5090b4783bc45831b4f288431d4356aab5e8",
        "ece8b0f92563345692d8f629ccddd2b130fdb38f51342c6155700cd0b4508354",
    ]


def test_saved_and_loaded(tmp_path: Path, paper: list[Task]) -> None:
    for task in paper:
        task.save(tmp_path)
        loaded = Task.load(tmp_path / f"{task.name}.json")
        assert loaded.config == task.config
        assert loaded.fingerprint == task.fingerprint
        assert loaded.instances.tolist() == task.instances.tolist()
        for name in ("tokens", "train_ids", "test_ids", "continuation"):
            ours, theirs = getattr(loaded, name), getattr(task, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def swap_first(values: list) -> None:
    values[0], values[1] = values[1], values[0]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda r: swap_first(r["tokens"]),
        lambda r: r["instances"][7].__setitem__(2, r["tokens"][0]),
        lambda r: r["instances"].pop(),
        lambda r: r["test_ids"].append(r["train_ids"].pop()),
        lambda r: r["train_ids"].append(r["test_ids"][0]),
        lambda r: r["config"].update(name="u"),
        lambda r: r["config"].update(seed=5),
        lambda r: r["config"].update(kind="modular_addition"),
        lambda r: r.update(fingerprint="0" * 64),
    ],
)
def test_tampering_is_refused(tamper: Any, tmp_path: Path) -> None:
    rebuilt().save(tmp_path)
    path = tmp_path / "t.json"
    record = json.loads(path.read_text())
    tamper(record)
    path.write_text(json.dumps(record))
    with pytest.raises(
        UserError, match="was changed: its contents do not match|is not a saved task: .*its halves do not share"
    ):
        Task.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "is not a saved task"),
        ("{}", "is not a saved task"),
        ('{"config": {"colour": 1}, "fingerprint": "", "tokens": [], "instances": [], "train_ids": [], "test_ids": []}',
         "is not a saved task"),
        ('{"config": {}, "fingerprint": "", "tokens": [[1], [1, 2]], "instances": [], "train_ids": [], "test_ids": []}',
         "is not a saved task"),
        ('{"config": {}, "fingerprint": "", "tokens": ["a"], "instances": [], "train_ids": [], "test_ids": []}',
         "is not a saved task"),
    ],
)  # fmt: skip
def test_what_is_no_saved_task(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        Task.load(tmp_path / "t.json")
    assert "\n" not in str(refused.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t\.json does not exist"):
        Task.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "tasks: name '' must be a word"),
        ({"name": "two words"}, "tasks: name 'two words' must be a word"),
        ({"name": "../t"}, r"tasks: name '\.\./t' must be a word"),
        ({"kind": "sorting"}, "tasks: t: kind 'sorting' is not one of comparison, modular_addition.* or FILE.py:CLASS"),
        ({"kind": ""}, "tasks: t: kind '' is not one of"),
        ({"train_fraction": 0.0}, "t: train_fraction 0.0 must lie between 0 and 1"),
        ({"train_fraction": 1.0}, "t: train_fraction 1.0 must lie between 0 and 1"),
        ({"train_fraction": float("nan")}, "t: train_fraction nan must lie between 0 and 1"),
        ({"train_fraction": 0.001}, "t: 400 instances leave the train or the test half empty"),
        ({"options": {"n_values": 1}}, "t: n_values must be at least 2, got 1"),
        ({"options": {"n_values": "20"}}, "t: option n_values must be a whole number, got '20'"),
        ({"options": {"n_values": 20.0}}, r"t: option n_values must be a whole number, got 20\.0"),
        ({"options": {"n_values": True}}, "t: option n_values must be a whole number, got True"),
        ({"options": {"modulus": 7}}, "t: kind 'comparison' has no option 'modulus'; it has n_values"),
        ({"options": {"n_values": 500}}, "t: needs 502 tokens, the vocabulary has 198 left that may be sampled"),
    ],
)
def test_impossible_tasks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        rebuilt(**changes)
    assert "\n" not in str(refused.value)


def test_two_tasks_of_one_name() -> None:
    with pytest.raises(UserError, match="two tasks are named tcmp; names must differ"):
        build_tasks([PAPER[0], PAPER[0]], vocabulary(300))
