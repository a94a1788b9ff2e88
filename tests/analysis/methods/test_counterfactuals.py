"""Counterfactual labels against the rules of the tasks themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made import tasks_of

from analysis.methods.counterfactuals import VARIABLES, draw_pairs
from analysis.methods.das import answers
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.tasks.ragged import Ragged

LESS, PLUS = tasks_of("less", "plus", n_values=7)


def label_of(task: Task, a: int, b: int) -> int:
    """Of the values themselves, by the rule."""
    if task is PLUS:
        return int(task.tokens[(a + b) % 7])
    return int(task.tokens[7 if a < b else 8])


@pytest.mark.parametrize("task", [LESS, PLUS], ids=lambda task: task.name)
@pytest.mark.parametrize("variable", VARIABLES)
def test_counterfactual_labels_follow_the_rule(task: Task, variable: str) -> None:
    pairs = draw_pairs(task, variable, task.train_ids, 200, "test")
    value = {int(token): number for number, token in enumerate(task.tokens[:7])}
    for base, source, label, changed in zip(pairs.base, pairs.source, pairs.label, pairs.changed, strict=True):
        (a, b), (c, d) = ([value[int(token)] for token in side] for side in (base, source))
        then = {"first": (c, b), "second": (a, d), "result": (c, d)}[variable]
        assert task.label_tokens[int(label)] == label_of(task, *then)
        assert bool(changed) == (label_of(task, *then) != label_of(task, a, b))
    assert len(pairs.base) == 200
    assert pairs.no_swap == pytest.approx(0.5, abs=0.01)  # 7 values keep an addition's label often enough
    instances = {tuple(row) for row in task.triples[task.train_ids, :2].tolist()}
    assert {tuple(row) for row in (*pairs.base.tolist(), *pairs.source.tolist())} <= instances


def test_a_table_with_holes_gives_only_labels_that_it_has() -> None:
    """A task of the user's own: TOK2 is always greater than TOK1, so half of the exchanged pairs do not exist."""
    config = TaskConfig("gaps", "any")
    instances = np.array([[a, b, 20 + (b - a) % 2] for a in range(10, 19) for b in range(a + 1, 20)], np.uint32)
    ids = np.arange(len(instances))
    continuation = np.ones(len(ids), np.int64)
    task = Task(config, np.arange(10, 22, dtype=np.uint32), Ragged.of(instances), ids, ids, continuation)
    pairs = draw_pairs(task, "first", ids, 50, "test")
    assert (pairs.source[:, 0] < pairs.base[:, 1]).all()
    expected = (pairs.base[:, 1] - pairs.source[:, 0]) % 2
    assert (pairs.label == expected).all()


def test_the_same_pairs_each_time_and_others_for_another_purpose() -> None:
    first, again, other = (draw_pairs(LESS, "first", LESS.test_ids, 20, purpose) for purpose in ("a", "a", "b"))
    assert first.base.equal(again.base)
    assert not first.base.equal(other.base)


def test_different_pairs_are_each_taken_once() -> None:
    few = LESS.train_ids[:4]
    often = draw_pairs(LESS, "result", few, 1024, "test")
    once = draw_pairs(LESS, "result", few, 1024, "test", distinct=True)
    assert len(often.label) == 1024
    taken = [(*base, *source) for base, source in zip(once.base.tolist(), once.source.tolist(), strict=True)]
    assert len(taken) == len(set(taken)) <= 16
    assert once.instances == often.instances == 4
    labels = LESS.labels[few]
    assert once.changed.sum() == sum(a != b for a in labels for b in labels)
    assert once.no_swap <= 0.5  # as of many pairs


def test_an_interval_counts_no_more_pairs_than_instances() -> None:
    assert answers(draw_pairs(LESS, "result", LESS.train_ids[:4], 1024, "test", distinct=True)) == 4
    assert answers(draw_pairs(LESS, "result", LESS.train_ids, 6, "test", distinct=True)) == 6


def test_a_task_of_one_label_is_refused() -> None:
    triples = LESS.triples.copy()
    triples[:, 2] = triples[0, 2]
    constant = replace(LESS, instances=Ragged.of(triples))
    with pytest.raises(UserError, match="no two instances differ in first"):
        draw_pairs(constant, "first", constant.train_ids, 10, "test")
