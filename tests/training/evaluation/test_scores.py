"""Label mass, loss among labels and AUC are what their definitions say; what a model knows of the format moves neither
of the last two."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from made import tasks_of

from olmo_inject.training.evaluation.tasks import Scores, auc, half_means, score

VOCAB = 40
LESS, PLUS = tasks_of("less", "plus", n_values=5, size=VOCAB)


def scored(task, logits: torch.Tensor) -> Scores:
    target = torch.from_numpy(task.labels.astype(np.int64))
    return Scores.of(score(logits, target, torch.from_numpy(task.label_tokens.astype(np.int64))).numpy())


@pytest.mark.parametrize("task", [LESS, PLUS], ids=["two labels", "more"])
def test_the_loss_is_that_of_the_format_and_that_among_the_labels(task) -> None:
    logits = torch.randn(len(task.instances), VOCAB, generator=torch.Generator().manual_seed(1)).double()
    found = scored(task, logits)
    shares = logits.softmax(-1).numpy()
    own = shares[:, task.label_tokens]
    right = shares[np.arange(len(shares)), task.labels]
    np.testing.assert_allclose(found.loss, -np.log(right))
    np.testing.assert_allclose(found.label_mass, own.sum(axis=1))
    np.testing.assert_allclose(found.loss_among_labels, -np.log(right / own.sum(axis=1)))
    np.testing.assert_allclose(found.loss, found.loss_among_labels - np.log(found.label_mass))
    assert (found.correct_among_labels == (task.label_tokens[own.argmax(axis=1)] == task.labels)).all()


def test_the_format_alone_is_chance_among_the_labels() -> None:
    logits = torch.zeros(len(LESS.instances), VOCAB).double()
    logits[:, LESS.label_tokens.astype(np.int64)] = 20
    means = half_means(LESS, "test", LESS.test_ids, scored(LESS, logits).at(LESS.test_ids))
    assert means["label_mass"].value == pytest.approx(1, abs=1e-6)
    assert means["loss"].value == pytest.approx(np.log(2), abs=1e-6)
    assert means["loss_among_labels"].value == pytest.approx(np.log(2))
    assert means["auc"].value == means["auc_unmirrored"].value == 0.5


def test_auc_counts_pairs_in_order_and_ties_as_halves() -> None:
    difference = np.array([0.1, 0.4, 0.4, -1.0, 3.0, 0.4])
    second = np.array([False, True, False, False, True, True])
    pairs = list(itertools.product(difference[second], difference[~second]))
    assert auc(difference, second) == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
    assert auc(difference, np.ones(6, bool)) is None


def test_auc_is_of_tasks_with_two_labels_and_unmirrored_pairs_are_their_own_mean() -> None:
    logits = torch.randn(len(LESS.instances), VOCAB, generator=torch.Generator().manual_seed(2)).double()
    scores = scored(LESS, logits).at(LESS.test_ids)
    means = half_means(LESS, "test", LESS.test_ids, scores)
    rest = LESS.unmirrored
    assert 0 < rest.sum() < len(rest)
    for name in ("accuracy_among_labels", "loss_among_labels"):
        of = scores.correct_among_labels if name.startswith("accuracy") else scores.loss_among_labels
        assert means[f"{name}_unmirrored"].value == pytest.approx(of[rest].mean())
        assert means[f"{name}_unmirrored"].count == rest.sum()
    second = LESS.labels[LESS.test_ids] == LESS.label_tokens[1]
    assert means["auc"].value == auc(scores.difference, second)
    assert means["auc_unmirrored"].value == auc(scores.difference[rest], second[rest])
    assert not any(name.startswith("auc") for name in half_means(PLUS, "train", PLUS.train_ids, scored(PLUS, logits)))
