"""Counts per step: exact where they are exact, binomial where they are drawn."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from olmo_inject.injection.schedules import TAIL, Bernoulli, Burst, Schedule, Uniform, is_exact, windowed
from olmo_inject.randomness import key

RATES = st.one_of(
    st.fractions(min_value=0, max_value=64, max_denominator=1000),
    st.sampled_from([Fraction(1, 10), Fraction(1, 3), Fraction(2, 7), Fraction(1000, 999), Fraction(238, 10**10)]),
)
STEPS = st.integers(0, 10**7)


@st.composite
def bursts(draw: st.DrawFn) -> Burst:
    every = draw(st.integers(1, 120))
    return Burst(draw(st.integers(1, 120)), every, draw(st.integers(0, every - 1)))


EXACT = st.one_of(st.builds(Uniform, RATES), bursts())


def counts(schedule: Schedule, start: int, stop: int) -> list[int]:
    return [schedule.count(step) for step in range(start, stop)]


@given(RATES, STEPS, st.integers(0, 300))
@example(Fraction(1, 10), 10**7 - 3, 10)
@example(Fraction(29, 100), 0, 100)  # 28.999999999999996 in floating point
def test_uniform_never_drifts(rate: Fraction, start: int, n: int) -> None:
    """Any window of n batches holds floor(n r) or ceil(n r)."""
    held = sum(counts(Uniform(rate), start, start + n))
    assert held in (math.floor(n * rate), math.ceil(n * rate))


@given(RATES, STEPS)
def test_uniform_total_is_exact_from_the_start(rate: Fraction, n: int) -> None:
    assert Uniform(rate).before(n) == math.floor(n * rate)


def test_one_in_ten_is_one_in_every_ten() -> None:
    assert [s for s in range(60) if Uniform(Fraction(1, 10)).count(s)] == [9, 19, 29, 39, 49, 59]
    assert counts(Uniform(Fraction(5, 2)), 0, 6) == [2, 3, 2, 3, 2, 3]


@given(bursts(), st.integers(0, 500))
def test_burst_comes_in_its_phase_only(burst: Burst, step: int) -> None:
    due = step >= burst.phase and (step - burst.phase) % burst.every == 0
    assert burst.count(step) == (burst.instances if due else 0)


@pytest.mark.parametrize("n", [1, 10, 20, 50, 100])
def test_matched_frequency_bursts_have_one_total(n: int) -> None:
    """docs/study.md: N instances every N batches, N in 1, 10, 20, 50, 100: the same long-run frequency."""
    burst = Burst(n, n, 0)
    assert burst.rate == 1
    assert sum(counts(burst, 0, 1000)) == burst.before(1000) == 1000
    assert set(counts(burst, 0, 1000)) == ({1} if n == 1 else {0, n})


@given(EXACT, st.integers(0, 400), st.integers(0, 100), st.one_of(st.none(), st.integers(1, 300)))
def test_before_is_the_sum_of_counts(schedule: Schedule, step: int, start: int, length: int | None) -> None:
    for each in (schedule, windowed(schedule, start, None if length is None else start + length)):
        assert is_exact(each)
        assert each.before(step) == sum(counts(each, 0, step))
        assert each.before(0) == 0


@given(EXACT, STEPS)
def test_no_count_exceeds_the_announced_most(schedule: Schedule, start: int) -> None:
    observed = counts(schedule, start, start + 130)
    assert min(observed) >= 0
    assert max(observed) <= schedule.max_count
    if isinstance(schedule, Burst):
        assert max(observed) == schedule.max_count, "a period is at most 120 steps"


@given(st.integers(0, 30), st.integers(1, 30), st.booleans(), st.integers(0, 80))
def test_a_window_moves_nothing_inside_it(start: int, length: int, to_the_end: bool, step: int) -> None:
    stop = None if to_the_end else start + length
    inside = start <= step and (stop is None or step < stop)
    inners: list[Schedule] = [Uniform(Fraction(7, 3)), Burst(4, 6, 5), Bernoulli(Fraction(3), 16, 1)]
    for inner in inners:
        window = windowed(inner, start, stop)
        assert window.count(step) == (inner.count(step) if inside else 0)
        assert (window.rate, window.max_count) == (inner.rate, inner.max_count)
        assert is_exact(window) == is_exact(inner)


def test_a_window_over_everything_is_the_schedule_itself() -> None:
    schedule = Uniform(Fraction(1, 2))
    assert windowed(schedule, 0, None) is schedule


@given(RATES.filter(lambda rate: rate <= 16), st.integers(1, 6), STEPS)
def test_counts_at_a_multiple_of_a_rate_are_at_least_its_own(rate: Fraction, k: int, start: int) -> None:
    pairs: list[tuple[Schedule, Schedule]] = [(Uniform(rate), Uniform(k * rate))]
    if k * rate <= 64:
        pairs.append((Bernoulli(rate, 64, 9), Bernoulli(k * rate, 64, 9)))
    for less, more in pairs:
        for step in range(start, start + 25):
            assert less.count(step) <= more.count(step)


def exact_tail_quantile(n: int, p: Fraction) -> int:
    """The smallest m with P(Binomial(n, p) > m) < 1e-18, in whole numbers."""
    a, b = p.numerator, p.denominator
    above, limit = 0, Fraction(1, 10**18) * b**n
    for m in range(n, -1, -1):
        above += math.comb(n, m) * a**m * (b - a) ** (n - m)
        if above >= limit:
            return m
    return 0


@given(st.integers(1, 300), st.fractions(min_value=0, max_value=1, max_denominator=10**6))
@example(64, Fraction(0))
@example(64, Fraction(1))
@example(1024, Fraction(1, 10240))
@example(1024, Fraction(1023, 1024))
@example(1, Fraction(1, 10**20))
@example(300, Fraction(1, 10**12))
def test_bernoulli_is_cut_at_the_tail(batch_size: int, p: Fraction) -> None:
    assert TAIL == 1e-18
    assert Bernoulli(p * batch_size, batch_size, 0).max_count == exact_tail_quantile(batch_size, p)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "rate"), [(32, Fraction(4)), (1024, Fraction(1, 10)), (8, Fraction(15, 2))])
def test_bernoulli_counts_are_binomial(batch_size: int, rate: Fraction) -> None:
    """Chi-square against the binomial distribution over bins expected at least five times."""
    n = 8000
    schedule = Bernoulli(rate, batch_size, key("bernoulli", 1, "t"))
    observed = Counter(counts(schedule, 0, n))
    expected = n * stats.binom.pmf(np.arange(batch_size + 1), batch_size, float(rate) / batch_size)
    bins = np.flatnonzero(expected >= 5)
    seen = np.array([observed[int(m)] for m in bins])
    rest = n - seen.sum(), n - expected[bins].sum()
    p_value = stats.chisquare([*seen, rest[0]], [*expected[bins], rest[1]]).pvalue
    assert p_value > 1e-3
    # And one step's count says nothing of the next one's.
    series = np.array(counts(schedule, 0, n), float)
    assert abs(np.corrcoef(series[:-1], series[1:])[0, 1]) < 4 / math.sqrt(n)


def test_bernoulli_at_the_ends() -> None:
    assert counts(Bernoulli(Fraction(0), 8, 0), 0, 20) == [0] * 20
    assert counts(Bernoulli(Fraction(8), 8, 0), 0, 20) == [8] * 20


def test_bernoulli_differs_between_keys_but_not_between_calls() -> None:
    first = Bernoulli(Fraction(4), 32, key("bernoulli", 1, "t"))
    assert counts(first, 0, 50) == counts(Bernoulli(Fraction(4), 32, key("bernoulli", 1, "t")), 0, 50)
    assert counts(first, 0, 50) != counts(Bernoulli(Fraction(4), 32, key("bernoulli", 2, "t")), 0, 50)
    assert counts(first, 0, 6) == [4, 3, 4, 7, 4, 2]
