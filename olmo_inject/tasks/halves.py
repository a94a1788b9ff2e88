"""Which instances of a half are evaluated, and which of them decide whether a task is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from olmo_inject.randomness import key, permutation
from olmo_inject.tasks.task import Task

# The accuracy that decides whether a task is learned. If the mirror (b, a) of a pair (a, b) was trained on, it gives
# the answer away to a model that only knows that addition commutes, or that one of two unequal values is less.
UNMIRRORED = "accuracy_unmirrored"

Value = TypeVar("Value")


def chosen_ids(task: Task, half: str, most: int | None) -> Int64[np.ndarray, " n"]:
    """The instances of a half, or `most` of them; always the same ones.

    Args:
        task: supplies the halves.
        half: `train` or `test`.
        most: maximum number of instances; None: all.
    """
    ids = task.train_ids if half == "train" else task.test_ids
    if most is None or most >= len(ids):
        return ids
    return np.sort(ids[permutation(key("evaluation", task.name, half), len(ids))[:most]])


def unmirrored_among(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " u"]:
    """Indices into `ids` (instances of the test half) of pairs whose mirror is not in the train half."""
    return np.flatnonzero(task.unmirrored[np.searchsorted(task.test_ids, ids)])


def deciding_accuracy(values: Mapping[str, Value], task: str) -> Value | None:
    """The test accuracy that decides whether the task is learned; None if it was not measured.

    It is the accuracy on unmirrored pairs, or on all test pairs if each has its mirror in the train half.

    Args:
        values: a run's measurements by name.
        task: name of the task.
    """
    prefix = f"eval/{task}/test/"
    return values.get(f"{prefix}{UNMIRRORED}", values.get(f"{prefix}accuracy"))
