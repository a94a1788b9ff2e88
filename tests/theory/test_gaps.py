import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import mixtures

from olmo_inject.errors import UserError
from olmo_inject.theory.forms import gaps
from olmo_inject.theory.forms.closed_forms import critical_widths
from olmo_inject.theory.mixtures.task_mixture import TIE, TaskMixture

few = settings(max_examples=40, deadline=None)
steps = st.floats(0.01, 0.45)


@few
@given(mixtures() | mixtures(tied=True), steps)
def test_without_a_gap_the_critical_width_is_the_usual_one(mixture: TaskMixture, eta: float) -> None:
    step_size = eta / float(mixture.utilities.max())
    assert (gaps.gap_critical_widths(mixture, 1, step_size) == critical_widths(mixture)).all()


@few
@given(mixtures(), steps, st.integers(2, 500))
def test_gap_critical_width_counts_rivals_it_does_not_grow_against(mixture: TaskMixture, eta: float, gap: int) -> None:
    step_size = eta / float(mixture.utilities.max())
    found = gaps.gap_critical_widths(mixture, gap, step_size)
    for f, utility in enumerate(mixture.utilities):
        rivals = mixture.utilities[mixture.task_of != mixture.task_of[f]]
        growth = gaps.period_growth(gap, rivals, float(utility), step_size)
        assume((np.abs(growth) > 1e-9).all())
        assert found[f] == mixture.rank_of[f] + (growth <= 0).sum()


@few
@given(mixtures(), steps)
def test_critical_width_never_falls_with_the_gap(mixture: TaskMixture, eta: float) -> None:
    step_size = eta / float(mixture.utilities.max())
    widths = [gaps.gap_critical_widths(mixture, gap, step_size) for gap in (1, 2, 5, 30, 400, 10_000)]
    assert (np.diff(widths, axis=0) >= 0).all()
    # With every slot taken by a rival, a long gap loses all but what has a slot to spare.
    assert widths[-1].max() <= mixture.features


@few
@given(mixtures(), steps)
def test_longest_gap_is_the_last_at_which_the_width_suffices(mixture: TaskMixture, eta: float) -> None:
    step_size = eta / float(mixture.utilities.max())
    widths = np.arange(1, mixture.dimension + 1)
    longest = gaps.longest_gaps(mixture, widths, step_size)
    firsts = mixture.starts[:-1]
    for gap in (1, 3, 20, 300):
        enough = gaps.gap_critical_widths(mixture, gap, step_size)[firsts] <= widths[:, None]
        assert (enough == (longest >= gap)).all()
    rivals = mixture.features - np.diff(mixture.starts)
    assert (np.isinf(longest) == (widths[:, None] > rivals)).all()


@few
@given(mixtures() | mixtures(tied=True), steps, st.none() | st.sets(st.integers(0, 5), min_size=1))
def test_longest_gap_is_that_of_every_task_s_rivals_sorted_anew(
    mixture: TaskMixture, eta: float, against: set[int] | None
) -> None:
    step_size = eta / float(mixture.utilities.max())
    widths = np.arange(1, mixture.dimension + 1)
    chosen = None if against is None else sorted(task for task in against if task < mixture.tasks)
    longest = gaps.longest_gaps(mixture, widths, step_size, chosen)
    for task in range(mixture.tasks):
        counted = (mixture.task_of != task) & np.isin(mixture.task_of, range(6) if chosen is None else chosen)
        rivals = np.append(-np.sort(-mixture.utilities[counted]), np.zeros(len(widths)))[: len(widths)]
        utility = float(mixture.utilities[mixture.starts[task]])
        for rival, gap in zip(rivals, longest[:, task], strict=True):
            assert np.isinf(gap) == (rival == 0)
            if rival > 0:
                holds = gaps.demanded_utility(np.array([max(gap, 1), gap + 1]), rival, step_size) < utility * (1 - TIE)
                assert holds.tolist() == [gap > 0, False]


def test_longest_gaps_of_a_million_features_take_one_sort() -> None:
    mixture = TaskMixture.power_law(100, 10_000, null_directions=0)
    started = time.process_time()
    gaps.longest_gaps(mixture, [10, 1000, 100_000], 0.1 / float(mixture.utilities.max()))
    assert time.process_time() - started < 2  # a quarter of a second; a sort per task takes seven


def test_gap_decays_at_the_rival_s_rate_alone() -> None:
    assert gaps.gap_retention(1, 0.3, 0.5) == 1
    assert gaps.gap_retention(11, 0.3, 0.5) == pytest.approx(0.7**10)
    assert gaps.gap_retention(1000, 0.0, 0.5) == 1


def test_growth_falls_to_the_decay_of_the_gap() -> None:
    periods = np.array([1, 10, 1000, 10**6])
    rates = gaps.period_growth(periods, 0.1, 0.3, 0.5) / periods
    assert rates[0] == pytest.approx(np.log(1 + 0.2))
    assert (np.diff(rates) < 0).all()
    assert rates[-1] == pytest.approx(np.log(0.9), rel=1e-3)


def test_demanded_utility_solves_for_zero_growth() -> None:
    for gap in (1, 7, 120):
        demanded = float(gaps.demanded_utility(gap, 0.04, 0.6))
        assert gaps.period_growth(gap, 0.04, demanded, 0.6) == pytest.approx(0, abs=1e-13)
    assert np.isinf(gaps.demanded_utility(10**6, 0.4, 0.5))


def test_adam_saturates_where_mixed_data_would_not() -> None:
    one, hundred, ever = gaps.adam_displacement(np.array([1, 100, 10**6]), 1e-3)
    assert one == pytest.approx(1.005e-3, rel=1e-3)
    assert hundred / one == pytest.approx(9.76, abs=0.01)
    assert ever / one == pytest.approx(31.62, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: gaps.gap_critical_widths(m, 0, 0.1), "gap must be a whole number of 1 or more, got 0"),
        (lambda m: gaps.gap_critical_widths(m, 2, 9.0), "step size must be a finite number above 0 and below"),
        (lambda m: gaps.longest_gaps(m, [1], float("nan")), "step size must be a finite number above 0 and below"),
        (lambda m: gaps.gap_critical_widths(m, 10**16, 0.1), r"gap must be .* of 1 or more, below 2\^53, got 1e\+16"),
        (lambda m: gaps.longest_gaps(m, [1000], 0.1), "width must be a whole number.*, got 1000"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(TaskMixture.power_law())
