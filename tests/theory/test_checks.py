"""The acceptance checks at reduced cost. The fourteenth is a benchmark and no unit test."""

import math
from pathlib import Path

import pytest

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.checks.registry import CHECKS
from olmo_inject.theory.forms.closed_forms import frequent_tasks
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.scaling.laws import Regimes

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("unchecked")  # thousands of training steps; other tests check shapes
@pytest.mark.parametrize("number", [number for number in CHECKS if number != 14])
def test_acceptance_check(number: int) -> None:
    measures = list(CHECKS[number][1](Effort(quick=True)))
    assert measures
    assert {measure.check for measure in measures} == {number}
    assert [measure for measure in measures if not measure.passed] == []


def test_the_first_check_fails_with_a_wrong_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Regimes, "small_limit", lambda *_: 700.0)
    failed = [measure for measure in CHECKS[1][1](Effort(quick=True)) if not measure.passed]
    assert [(measure.what, measure.value) for measure in failed] == [("N_s* against brute force, 12 cases, wrong", 12)]


def test_what_the_page_says_of_the_checks_holds() -> None:
    mixture = TaskMixture.power_law()
    share = mixture.frequencies[frequent_tasks(mixture)].sum()
    assert f"{share:.8f}"[1:] == ".90653601"
    page = (Path(__file__).parents[2] / "docs" / "theory.md").read_text()
    assert ".90653601" in page
    assert "N = powers of two" in page
    assert CHECKS[11][0] == "trained encoders, N = powers of two"


def test_they_are_numbered_in_order() -> None:
    assert list(CHECKS) == list(range(1, len(CHECKS) + 1))


@pytest.mark.parametrize(
    ("value", "relation", "passed"),
    [
        (1.0, "<=", True),
        (1.1, "<=", False),
        (1.0, "<", False),
        (1.0, ">=", True),
        (0.9, ">=", False),
        (1.0, "==", True),
        (math.nan, "<=", False),
        (math.nan, ">=", False),
    ],
)
def test_verdicts(value: float, relation, passed: bool) -> None:
    assert AcceptanceMeasure(1, "x", value, relation, 1.0).passed is passed
