import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from olmo_inject.theory.checks import registry as validate
from olmo_inject.theory.checks.measure import Effort, Measure
from olmo_inject.theory.commands import app
from olmo_inject.theory.drawing import injection
from olmo_inject.theory.drawing.figures import FIGURES
from olmo_inject.theory.drawing.save import save_all

CLOSED = ("two-directions", "complexity", "regimes")


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (2.0, 1)])
def test_validate_prints_every_measure_and_fails_with_one(monkeypatch, value: float, status: int) -> None:
    measures = [Measure(1, "first thing", 0.1, "<=", 1), Measure(1, "second thing", value, "<=", 1)]
    monkeypatch.setattr(validate, "CHECKS", {1: ("a title", lambda effort: iter(measures))})
    shown = CliRunner().invoke(app, ["validate", "--quick"])
    assert shown.exit_code == status
    assert "second thing" in shown.output
    assert ("FAIL" in shown.output) == bool(status)
    result = CliRunner().invoke(app, ["validate", "--json"])
    assert result.exit_code == status
    document = json.loads(result.stdout)
    assert document["passed"] == (status == 0)
    assert [measure["passed"] for measure in document["measures"]] == [True, status == 0]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_figures_are_written(tmp_path: Path, name: str) -> None:
    path, vector, paper = save_all(FIGURES[name](Effort(quick=True)), tmp_path, name)
    assert vector.read_bytes().startswith(b"<?xml")
    assert paper.read_bytes().startswith(b"%PDF")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("name", sorted(set(FIGURES) - set(CLOSED)))
def test_trained_figures_draw_theory_and_training(name: str) -> None:
    figure = FIGURES[name](Effort(quick=True))
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_legend() is not None
        assert len(axes.lines) >= 2


def test_what_a_gap_leaves_is_drawn_from_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injection, "gap_retention", lambda gap, eigenvalue, step_size: gap * 0.0 + 0.25)
    _, _, right = injection.two_directions(Effort(quick=True)).axes
    assert [set(line.get_ydata()) for line in right.lines] == [{0.25}] * 4  # type: ignore[arg-type]
