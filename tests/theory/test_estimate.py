import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.commands import app
from olmo_inject.theory.forms.closed_forms import task_losses
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law
from olmo_inject.theory.prediction.estimate import UtilityEstimate, estimate_utilities, matched_cells, parse_cell
from olmo_inject.theory.prediction.measured import estimate_from_runs

WIDTHS, RATES = [8, 12, 16, 24, 32, 48, 64, 96], np.geomspace(3e-4, 3e-1, 8)
SPECTRUM = power_law(40, 1.3)


@cache
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact losses of a task among twenty of the corpus, over width and frequency: the truth is known."""
    corpus, rows = TaskMixture.power_law(), []
    for rate in RATES:
        shares = np.append(corpus.frequencies * (1 - rate), rate)
        mixture = TaskMixture(shares, (*corpus.spectra, SPECTRUM))
        for width, losses in zip(WIDTHS, task_losses(mixture, WIDTHS), strict=True):
            rows.append((width, rate, losses[-1]))
    return tuple(np.array(rows).T)  # type: ignore[return-value]


@cache
def estimated() -> UtilityEstimate:
    """From all cells."""
    return estimate_utilities(*cells())


def half_rate(width: int) -> float:
    """The least frequency at which the theory holds half of the task."""
    corpus = TaskMixture.power_law()
    for rate in np.geomspace(1e-4, 0.9, 400):
        mixture = TaskMixture(np.append(corpus.frequencies * (1 - rate), rate), (*corpus.spectra, SPECTRUM))
        if task_losses(mixture, [width])[0, -1] <= 0.5:
            return float(rate)
    return np.nan


@pytest.mark.slow
def test_the_error_on_synthetic_losses_is_what_the_page_says() -> None:
    widths, rates, losses = cells()
    held_out = (np.arange(len(losses)) % 4) == 1
    found = estimate_utilities(widths[~held_out], rates[~held_out], losses[~held_out])
    misses = found.loss(widths[held_out], rates[held_out]) - losses[held_out]
    assert np.sqrt(np.mean(misses**2)) < 0.08
    assert found.held_out < 0.08
    baseline = losses[held_out] - losses[~held_out].mean()
    assert np.sqrt(np.mean(misses**2)) < 0.3 * np.sqrt(np.mean(baseline**2))
    truth = np.array([half_rate(width) for width in WIDTHS])
    known = np.isfinite(truth) & (truth > RATES[0]) & (truth < RATES[-1])
    off = np.abs(np.log(found.half_frequency(np.array(WIDTHS)[known]) / truth[known]))
    assert known.sum() >= 4
    assert off.max() < np.log(2)
    assert "factor of two" in (Path(__file__).parents[2] / "docs" / "theory.md").read_text()


def test_a_step_is_found_again_from_its_own_losses() -> None:
    truth = UtilityEstimate(0.4, 2.5, 1.7, 1.2, 3.0)
    widths, rates = (grid.ravel() for grid in np.meshgrid([8.0, 16, 32, 64], np.geomspace(0.01, 10, 6)))
    found = estimate_utilities(widths, rates, truth.loss(widths, rates))
    for name in ("floor", "ceiling", "steepness", "exponent", "log_half"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-3)
    assert found.held_out < 1e-3
    assert float(found.effective_utility(8, found.half_frequency(8))) == pytest.approx(1)


def test_all_seeds_of_a_cell_are_held_out_together() -> None:
    # Were one seed left in, it would tell the other's loss.
    twice = estimate_utilities(*(np.tile(column, 2) for column in cells()))
    assert twice.held_out == pytest.approx(estimated().held_out, rel=0.02)
    with pytest.raises(UserError, match="7 or more cells, got 4"):
        estimate_utilities(np.tile([8, 8, 16, 16], 5), np.tile([1, 2, 1, 2], 5), np.arange(1.0, 21))


def test_runs_are_estimated_from_python(tmp_path: Path) -> None:
    widths, rates, losses = cells()
    table = pd.DataFrame({"task": "a", "width": widths, "frequency": rates, "loss": losses, "gap": 1 / rates})
    bursts = table.assign(gap=100 / rates, loss=9.0)
    unused = table.assign(task="corpus", frequency=0.0)
    pd.concat([table, bursts, unused]).to_csv(tmp_path / "losses.csv", index=False)
    (task,) = estimate_from_runs([tmp_path / "losses.csv"])
    assert task.name == "a"
    assert len(task.losses) == len(task.cells()) == len(losses)
    assert task.estimate.exponent == pytest.approx(estimated().exponent, rel=1e-6)
    with pytest.raises(UserError, match="paths must be a list"):
        estimate_from_runs("losses.csv")  # type: ignore[arg-type]


@pytest.mark.slow
def test_predict_from_a_table_of_losses(tmp_path: Path) -> None:
    widths, rates, losses = (column[::4] for column in cells())
    path = tmp_path / "losses.csv"
    pd.DataFrame({"task": "a", "width": widths, "frequency": rates, "loss": losses}).to_csv(path, index=False)
    result = CliRunner().invoke(app, ["predict", "--from", str(path), "--at", "128:1/10", "--json"])
    assert result.exit_code == 0, result.exception
    task = json.loads(result.stdout)["tasks"][0]
    assert len(task["measured"]) == 16
    assert task["predicted"][0]["effective_utility"] > 1
    shown = CliRunner().invoke(app, ["predict", "--from", str(path), "--at", "128:1/10"])
    assert "held out one at a time" in " ".join(shown.output.split())


def test_bursts_are_left_out() -> None:
    assert matched_cells(np.array([8.0, 8.0, 0.1]), np.array([1.0, 8.0, 10.0])).tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["128", "x:1", "128:", "128:0", "-3:1"])
def test_cells_are_width_and_rate(text: str) -> None:
    with pytest.raises(UserError):
        parse_cell(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(1.0, 6), np.ones(5), np.ones(5)), "7 or more cells, got 5"),
        ((np.ones(9), np.arange(1.0, 10), np.ones(9)), "widths must take two or more different values"),
        ((np.ones(9), np.ones(8), np.ones(9)), "every cell needs one width"),
        ((np.ones(9), np.full(9, np.nan), np.ones(9)), "frequencies must be a finite number"),
    ],
)
def test_too_little_is_refused(arguments, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate_utilities(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a configuration"),
        (["x.yaml", "--from", "y.csv"], "replaces a configuration"),
        (["x.yaml", "--at", "8:1"], "it needs --from"),
    ],
)
def test_what_predict_may_be_given(arguments: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["predict", *arguments]).exception
    assert isinstance(error, UserError)
    assert message in str(error)
