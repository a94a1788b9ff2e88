import numpy as np
import pytest
import torch

from olmo_inject.theory.mixtures.features import random_encoder
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training import metrics

MIXTURE = TaskMixture(
    np.array([0.6, 0.4]), (np.array([1.0, 0.5]), np.array([2.0, 0.1, 0.1])), null_directions=5, basis="random"
)


def test_measures_of_an_encoder_are_traces() -> None:
    encoder = random_encoder(3, MIXTURE.dimension, 1)
    captured = metrics.captures(MIXTURE, encoder)
    projection = (encoder.T @ encoder).numpy()
    for task in range(2):
        gram = MIXTURE.gram([task]) / MIXTURE.frequencies[task]
        missed = np.trace((np.eye(MIXTURE.dimension) - projection) @ gram)
        assert metrics.losses_from_captures(MIXTURE, captured)[task] == pytest.approx(missed)
        signal = np.trace(projection @ gram) / np.trace(gram)
        assert metrics.signals_from_captures(MIXTURE, captured)[task] == pytest.approx(signal)


def test_only_the_span_counts() -> None:
    encoder = random_encoder(3, MIXTURE.dimension, 1)
    mixed = torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.1, 5.0], [1.0, 1.0, 1.0]], dtype=torch.float64) @ encoder
    assert np.allclose(metrics.captures(MIXTURE, encoder), metrics.captures(MIXTURE, mixed), atol=1e-12)


def test_the_normalised_signal_is_not_clipped() -> None:
    values = metrics.normalised_signal(np.array([0.0, 0.25, 1.0]), 5, 20)
    assert values == pytest.approx([-1 / 3, 0, 1])
    assert metrics.normalised_signal(np.array([0.3]), 20, 20).tolist() == [1.0]


def test_overlap_and_excess_of_the_best_and_of_one_wrong_feature() -> None:
    # Utilities .8 (task 2), .6, .3 (task 1), .04, .04.
    best, wrong = np.array([1, 1, 1, 0, 0.0]), np.array([1, 0, 1, 1, 0.0])
    assert metrics.feature_overlap(MIXTURE, best, 3) == 1
    assert metrics.excess_loss(MIXTURE, best, 3) == pytest.approx(0, abs=1e-15)
    assert metrics.feature_overlap(MIXTURE, wrong, 3) == pytest.approx(2 / 3)
    assert metrics.excess_loss(MIXTURE, wrong, 3) == pytest.approx((0.3 + 0.04) / 0.08 - 1)


@pytest.mark.parametrize("width", [5, 6])
def test_excess_is_the_loss_itself_where_the_best_encoder_has_none(width: int) -> None:
    wrong = np.array([[1, 0, 1, 1, 0.5], [1, 1, 1, 1, 1]])
    assert metrics.excess_loss(MIXTURE, wrong, width).tolist() == pytest.approx([0.3 + 0.02, 0])
