"""Intervals: how often they hold the truth, and that they are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats import clustered_interval, series_interval, wilson


def mean_interval(values: np.ndarray, purpose: str) -> tuple[float, float, float]:
    """The interval of observations of which each is a cluster of its own."""
    return clustered_interval(values, range(len(values)), purpose)


@pytest.mark.slow
def test_the_true_mean_is_covered_as_often_as_promised() -> None:
    rng, times = np.random.default_rng(0), 400
    covered = 0
    for number in range(times):
        _, low, high = mean_interval(rng.exponential(3.0, 40), f"draw {number}")
        covered += low <= 3.0 <= high
    # Percentile intervals of 40 skewed values fall some percent short; the standard error here is 0.02.
    assert 0.89 < covered / times < 0.99


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


@pytest.mark.parametrize("n", [8, 16, 40, 120])
def test_the_mean_of_a_series_is_covered_however_short_it_is(n: int) -> None:
    """Each value depends on the one before, with a correlation of a half."""
    steps = np.random.default_rng(n).normal(size=(1500, n + 20))
    series = np.zeros(1500)
    found = [series := 0.5 * series + step for step in steps.T][20:]
    ends = np.array([series_interval(values, 4)[1:] for values in np.stack(found, axis=1)])
    covered = float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean())
    assert 0.905 < covered < 0.965  # it is 0.92 to 0.95; the standard error here is 0.006


def test_the_interval_of_a_series_is_student_s_t_over_its_blocks() -> None:
    mean, low, high = series_interval(np.repeat([0.0, 3.0], 5), 4)
    assert (mean, low, high) == pytest.approx((1.5, 1.5 - 12.7062 * 1.5, 1.5 + 12.7062 * 1.5), rel=1e-5)
    assert np.isnan(series_interval(np.arange(7.0), 4)[1:]).all()  # one block tells nothing of others
    assert not np.isnan(series_interval(np.arange(8.0), 4)[1:]).any()


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 1000, 0.46907, 0.53093), (0.0, 20, 0.0, 0.16113), (1.0, 1, 0.20655, 1.0), (0.85, 40, 0.709277, 0.929388)],
)
def test_wilson_is_the_textbook_formula(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))
