import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.checks import registry as validate
from olmo_inject.theory.checks.measure import AcceptanceMeasure
from olmo_inject.theory.commands import app
from olmo_inject.theory.drawing import injection, style
from olmo_inject.theory.drawing.figures import FIGURES
from olmo_inject.theory.drawing.save import save_all
from olmo_inject.theory.drawing.scene import SceneConfig, load_scene, scene_of
from olmo_inject.theory.forms.gaps import longest_gaps
from olmo_inject.theory.forms.kept import longest_kept_gaps

DRAWN = sorted(set(FIGURES) - {"kept", "two-directions", "complexity", "regimes"})
SMALL = SceneConfig(5, 4, 1.7, 2.3, 20, [1, 2, 4, 8], [4, 8], [2, 8], [1, 3, 5], 4, [1, 5, 45], 10, 40, 60, 2)
TINY = scene_of(SMALL)


@cache
def drawn(name: str) -> Figure:
    """Each figure is trained for and drawn once for all tests."""
    return FIGURES[name](TINY)


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (2.0, 1)])
def test_validate_prints_every_measure_and_fails_with_one(monkeypatch, value: float, status: int) -> None:
    measures = [AcceptanceMeasure(1, "first thing", 0.1, "<=", 1), AcceptanceMeasure(1, "second thing", value, "<=", 1)]
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


@pytest.mark.slow
def test_a_figure_is_written_in_every_format(tmp_path: Path) -> None:
    path, vector, paper = save_all(drawn("two-directions"), tmp_path, "two-directions")
    assert vector.read_bytes().startswith(b"<?xml")
    assert paper.read_bytes().startswith(b"%PDF")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 400_000


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_trained_figures_draw_theory_and_training(name: str) -> None:
    figure = drawn(name)
    assert len(figure.axes) == (3 if name == "injection" else 2)
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_legend() is not None
        assert len(axes.lines) >= 2
    if name != "overlap-gaps":  # closed forms of fixed directions
        assert any(axes.collections for axes in figure.axes), "seeds are bands or bars"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_is_legible_in_print(name: str) -> None:
    figure = drawn(name)
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]  # type: ignore[attr-defined]
    assert min(sizes) >= 8
    assert figure.get_figwidth() <= style.WIDTH


def test_every_colour_is_dark_enough_for_paper() -> None:
    for colour in (*style.CATEGORIES, style.BLACK, style.GREY, *style.shades(5)):
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
        assert 1.05 / (luminance + 0.05) >= 3, colour


@pytest.mark.slow
def test_figures_of_another_mixture(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(
        "{tasks: 4, features: 3, null_directions: 8, widths: [2, 4], injected: [4], contrast: [2, 4], "
        "shown: [1, 2], rare: 3, gaps: [1, 4], trace_gap: 4, steps: 9, injection_steps: 12, seeds: 1}"
    )
    command = ["figures", "--out", str(tmp_path / "out"), "--config", str(path), "--only", "injection"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    assert sorted(file.suffix for file in (tmp_path / "out").iterdir()) == [".pdf", ".png", ".svg"]
    for text, message in (("{tasks: 0}", "tasks must be a whole number"), ("{takss: 4}", "Key 'takss' not in")):
        path.write_text(text)
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, UserError)
        assert message in str(error)
    paper = load_scene(Path(__file__).parents[2] / "docs" / "paper.yaml", quick=False)
    assert (paper.mixture.tasks, paper.contrast) == (32, (32, 256))


def test_nothing_is_drawn_for_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    command = ["figures", "--out", str(tmp_path / "file"), "--only", "two-directions"]
    monkeypatch.setitem(FIGURES, "two-directions", lambda scene: pytest.fail("it was drawn"))
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, UserError)
    assert "cannot write" in str(error)


def test_cosines_are_those_of_the_batch_s_parts() -> None:
    whole, other = injection.batch_cosines(TINY.mixture, 3, 8, 5, 20, (0, 1))
    assert whole.shape == other.shape == (20, 2)
    burst = np.arange(20) % 5 == 4
    assert np.allclose(whole[~burst], other[~burst])
    assert (whole[burst] > other[burst]).all()


def test_plain_steps_are_drawn_beside_the_gaps_that_are_predicted_for_them() -> None:
    plain, _, _ = drawn("injection").axes
    step = injection.PLAIN / TINY.mixture.utilities.max()
    learned = longest_gaps(TINY.mixture, TINY.injected, step)[:, TINY.rare]
    kept = longest_kept_gaps(TINY.mixture, TINY.injected, step)[:, TINY.rare]
    expected = [gap for gap in np.minimum(learned, kept) if 1 <= gap <= max(TINY.gaps)]
    assert expected
    dotted = [line for line in plain.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in dotted] == expected


def test_a_dotted_line_has_a_band_over_seeds_and_a_marker_bars() -> None:
    _, (axes,) = style.panels(1)
    for mark, kind in ((":", PolyCollection), ("o-", PolyCollection), ("o", LineCollection), ("x", LineCollection)):
        style.seeds(axes, [0, 1], [np.array([0.0, 1]), np.array([1.0, 2])], mark, style.BLUE)
        assert isinstance(axes.collections[-1], kind)


def test_what_a_gap_leaves_is_drawn_from_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injection, "gap_retention", lambda gap, eigenvalue, step_size: gap * 0.0 + 0.25)
    _, _, right = injection.two_directions(TINY).axes
    assert [set(line.get_ydata()) for line in right.lines] == [{0.25}] * 4  # type: ignore[arg-type]
