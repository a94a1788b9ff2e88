from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mixtures

from olmo_inject.theory.forms import kept
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.prediction.predict import predict
from olmo_inject.theory.training.dynamics import descended, rotated
from olmo_inject.theory.training.streams import Bursts
from olmo_inject.theory.training.train import Recipe, train

pytestmark = pytest.mark.slow

few = settings(max_examples=30, deadline=None)
steps = st.floats(0.01, 0.45)
SMALL = TaskMixture(np.array([0.8, 0.2]), (np.array([1.0, 0.3, 0.05]), np.array([0.8])), null_directions=2)


@few
@given(mixtures() | mixtures(tied=True), steps)
def test_the_longest_kept_gap_is_where_the_sign_first_changes(mixture: TaskMixture, eta: float) -> None:
    step_size = eta / float(mixture.utilities.max())
    widths = np.arange(1, mixture.dimension + 1)
    longest = kept.longest_kept_gaps(mixture, widths, step_size)
    assert np.isfinite(longest).all()
    unheld = kept.unheld_utilities(mixture, widths)
    periods = np.arange(1, 2001)
    for w, k in np.ndindex(longest.shape):
        utility = float(mixture.utilities[mixture.starts[k]])
        growth = kept.tilt_growth(periods, float(unheld[w, k]), utility, step_size)
        if longest[w, k] == 0:
            assert growth[0] >= -1e-9
        elif longest[w, k] < 2000:
            stable = growth < 0
            assert stable[: int(longest[w, k])].all()
            assert not stable[int(longest[w, k]) :].any()


@few
@given(mixtures())
def test_without_a_gap_kept_and_learned_are_the_critical_width(mixture: TaskMixture) -> None:
    step_size = 0.1 / float(mixture.utilities.max())
    for width in range(1, mixture.features + 1):
        for task in range(mixture.tasks):
            assert kept.gap_regime(mixture, task, width, 1, step_size) in ("kept", "lost")


@pytest.mark.parametrize(
    ("width", "gap", "regime"),
    [(3, 5, "kept"), (3, 80, "oscillates"), (4, 60, "oscillates"), (2, 5, "lost"), (4, 14, "kept")],
)
def test_regimes_are_what_training_does(width: int, gap: int, regime: str) -> None:
    eta = 0.1 / 0.8
    assert kept.gap_regime(SMALL, 1, width, gap, eta) == regime
    recipe = Recipe(steps=max(200, 20 * gap), learning_rate=eta, optimizer="gd", schedule="constant")
    troughs = train(SMALL, width, recipe, seeds=(0,), bursts=Bursts(1, (gap,))).troughs()
    if regime == "kept":
        assert troughs.low.min() > 0.9
    elif regime == "lost":
        assert troughs.high.max() < 1e-3
    else:
        assert 1e-3 < troughs.median[0, 0] < 0.95


def test_a_bistable_task_stays_once_learned_and_is_not_learned_from_nothing() -> None:
    mixture = TaskMixture(np.array([0.8, 0.2]), (np.array([1.0, 0.3, 0.1875]), np.array([0.8])), null_directions=2)
    eta, gap = 0.1 / 0.8, 12
    assert kept.gap_regime(mixture, 1, 3, gap, eta) == "bistable"
    common, burst = torch.tensor(mixture.gram([0])), torch.tensor(mixture.gram([0]) + gap * mixture.gram([1]))
    rows = torch.eye(mixture.dimension, dtype=torch.float64)
    for held, start, end in (((0, 1, 3), 2, 1.0), ((0, 1, 2), 3, 0.0)):
        encoder = rotated(rows[list(held)], 2, rows[start], 0.05)
        for _ in range(120):
            encoder = descended(encoder, [common] * (gap - 1) + [burst], eta)
        assert float((encoder @ rows[3]).square().sum()) == pytest.approx(end, abs=1e-3)


def test_oscillation_starts_where_what_is_learned_is_not_kept() -> None:
    learned, keeps = np.array([[5.0, 1.0]]), np.array([[3.0, 4.0]])
    found = replace(predict(TaskMixture.power_law(2, 1), [1]), learned=learned, kept=keeps)
    assert found.oscillates.tolist() == [[4.0, np.inf]]
