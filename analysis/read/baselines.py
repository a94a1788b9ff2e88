"""Scores on a task that take no learning of it, to compare a model's with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmo_inject.tasks import Task


@dataclass(frozen=True)
class Baseline:
    """A score on a task that takes no learning of it.

    Attributes:
        name: how the answers are chosen.
        accuracy: over all instances.
        loss: cross-entropy in nats of the best prediction from the same knowledge.
    """

    name: str
    accuracy: float
    loss: float


def baselines(task: Task) -> list[Baseline]:
    """Baselines that know label frequencies alone, and those that know one operand (the better one).

    For TCMP over 100 values their accuracies are 0.505 and 0.75. A task of texts has none.
    """
    if not task.is_triples:
        return []
    labels = np.unique(task.labels, return_inverse=True)[1]
    nothing = np.zeros(len(labels), np.int64)
    of_one = [_best_given(np.unique(task.triples[:, i], return_inverse=True)[1], labels) for i in (0, 1)]
    return [
        Baseline("majority label", *_best_given(nothing, labels)),
        Baseline("one operand", max(a for a, _ in of_one), min(loss for _, loss in of_one)),
    ]


def _best_given(known: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy and loss of the best guess of `labels` from `known` alone."""
    counts = np.zeros((known.max() + 1, labels.max() + 1))
    np.add.at(counts, (known, labels), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(counts.max(axis=1).sum() / len(labels)), float(-(counts * logs).sum() / len(labels))
