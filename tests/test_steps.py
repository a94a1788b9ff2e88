"""Selections of steps against their definitions, by brute force."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_inject.errors import UserError
from olmo_inject.steps import StepSelection, StepWindow

UP_TO = 1100


def test_all_at_once_are_those_one_by_one() -> None:
    for per_decade in (0, 1, 3, 7, 46):
        selection = StepSelection([0, 5, 1099, 4000], per_decade, [StepWindow(3, 90, 7), StepWindow(1000, 5000, 9)])
        for last in (0, 1, 9, 10, 999, 1000, UP_TO - 1):
            assert sorted(selection.up_to(last)) == selected(selection, last + 1)


def selected(selection: StepSelection, up_to: int = UP_TO) -> list[int]:
    one_by_one = [step for step in range(up_to) if step in selection]
    assert sorted(selection.up_to(up_to - 1)) == one_by_one
    return one_by_one


@pytest.mark.parametrize(
    ("per_decade", "expected"),
    [
        (1, [1, 10, 100, 1000]),
        (2, [1, 3, 10, 32, 100, 316, 1000]),
        (3, [1, 2, 5, 10, 22, 46, 100, 215, 464, 1000]),
    ],
)
def test_log_spaced_steps(per_decade: int, expected: list[int]) -> None:
    assert selected(StepSelection(log_spaced=per_decade)) == expected


@pytest.mark.parametrize("per_decade", [4, 5, 7, 10, 46, 60])  # from 45 on, one short of a power of ten rounds to it
def test_log_spaced_by_brute_force(per_decade: int) -> None:
    expected = {round(10 ** float(Fraction(k, per_decade))) for k in range(4 * per_decade)}
    assert selected(StepSelection(log_spaced=per_decade)) == sorted(step for step in expected if step < UP_TO)


@given(
    st.lists(st.integers(0, 400), max_size=6),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90), st.integers(1, 40)), max_size=3),
)
def test_the_union_of_all_that_is_given(steps: list[int], per_decade: int, windows: list[tuple[int, int, int]]) -> None:
    selection = StepSelection(steps, per_decade, [StepWindow(a, a + length, every) for a, length, every in windows])
    selection.check("here")
    expected = set(steps).union(*(range(a, a + length, every) for a, length, every in windows))
    if per_decade:
        expected |= {round(10 ** (k / per_decade)) for k in range(4 * per_decade)}
    assert selected(selection, 500) == sorted(step for step in expected if step < 500)


def test_nothing_is_selected_by_default() -> None:
    StepSelection().check("here")
    assert selected(StepSelection()) == []


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (StepSelection(log_spaced=-1), "here.log_spaced: -1 must be at least 0"),
        (StepSelection(steps=[3, -2]), "here.steps: -2 must be at least 0"),
        (StepSelection(windows=[StepWindow(5, 5)]), "here.windows: start 5, stop 5, every 1: start must come before"),
        (StepSelection(windows=[StepWindow(-1, 5)]), "here.windows: start -1, stop 5"),
        (StepSelection(windows=[StepWindow(0, 5, 0)]), "here.windows: start 0, stop 5, every 0: .* at least 1"),
    ],
)
def test_selections_that_make_no_sense(selection: StepSelection, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        selection.check("here")
