"""Which instances of a half are evaluated, and on which of them a task is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from olmo_inject.randomness import key, permutation
from olmo_inject.tasks.task import Task

# What a task is judged by: the mirror (b, a) of a pair (a, b), if it was trained on, gives the answer away to a model
# that knows only that addition commutes, or that one of two unequal values is less.
UNMIRRORED = "accuracy_unmirrored"

Value = TypeVar("Value")


def chosen_ids(task: Task, half: str, most: int | None) -> Int64[np.ndarray, " n"]:
    """The instances of a half, `train` or `test`, or `most` of them, the same ones each time."""
    ids = task.train_ids if half == "train" else task.test_ids
    if most is None or most >= len(ids):
        return ids
    return np.sort(ids[permutation(key("evaluation", task.name, half), len(ids))[:most]])


def unmirrored_among(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " u"]:
    """Which places of `ids`, some of the test half's, hold a pair whose mirror is not in the train half."""
    return np.flatnonzero(task.unmirrored[np.searchsorted(task.test_ids, ids)])


def judged(values: Mapping[str, Value], task: str) -> Value | None:
    """Of a run's measurements by name, the test accuracy that the task is judged by; None where it is not there.

    That on all test pairs where each has its mirror in the train half.
    """
    prefix = f"eval/{task}/test/"
    return values.get(f"{prefix}{UNMIRRORED}", values.get(f"{prefix}accuracy"))
