"""Bootstrap intervals: how often they hold the truth, and that they are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats import mean_interval, resamples, wilson


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_true_mean_is_covered_as_often_as_promised(confidence: float) -> None:
    rng, times = np.random.default_rng(0), 400
    covered = 0
    for number in range(times):
        _, low, high = mean_interval(rng.exponential(3.0, 40), f"draw {number}", confidence)
        covered += low <= 3.0 <= high
    # Percentile intervals of 40 skewed values fall some percent short; the standard error here is 0.02.
    assert confidence - 0.06 < covered / times < confidence + 0.04


def test_it_is_as_wide_as_the_central_limit_theorem_says() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = mean_interval(values, "width")
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_the_same_each_time_and_within_the_values(given_values: list[float]) -> None:
    values = np.array(given_values)
    first, again = mean_interval(values, "a"), mean_interval(values, "a")
    assert first == again
    slack = 1e-9 * (1 + np.abs(values).max())
    assert values.min() - slack <= first[1] <= first[2] <= values.max() + slack


def test_the_purpose_keys_the_draws() -> None:
    values = np.arange(7.0) ** 2
    assert mean_interval(values, "a")[1:] != mean_interval(values, "b")[1:]


def test_one_observation_has_no_interval() -> None:
    mean, low, high = mean_interval(np.array([0.25]), "one")
    assert mean == 0.25
    assert np.isnan([low, high]).all()


@pytest.mark.slow
def test_blocks_cover_the_mean_of_what_depends_on_what_went_before() -> None:
    """A moving average of four, whose mean varies almost four times as much as that of independent values."""
    rng, times = np.random.default_rng(2), 300
    covered = {1: 0, 8: 0}
    for number in range(times):
        values = np.convolve(rng.normal(size=123), np.full(4, 0.5), "valid")
        for block in covered:
            _, low, high = mean_interval(values, f"draw {number}", block=block)
            covered[block] += low <= 0 <= high
    assert covered[1] / times < 0.75
    assert covered[8] / times > 0.86  # blocks fall some percent short; the standard error here is 0.02


def test_fewer_than_two_blocks_have_no_interval() -> None:
    assert np.isnan(mean_interval(np.arange(7.0), "seven", block=4)[1:]).all()
    assert not np.isnan(mean_interval(np.arange(8.0), "eight", block=4)[1:]).any()


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 1000, 0.46907, 0.53093), (0.0, 20, 0.0, 0.16113), (1.0, 1, 0.20655, 1.0), (0.85, 40, 0.709277, 0.929388)],
)
def test_wilson_is_the_textbook_formula(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_a_sample_of_blocks_is_made_of_stretches() -> None:
    samples = resamples(10, 50, "stretches", block=5)
    assert samples.shape == (50, 10)
    assert {int(step) for step in np.diff(samples.reshape(50, 2, 5), axis=2).ravel() % 10} == {1}
