import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.checks.overlap import shared_slot
from olmo_inject.theory.commands import app
from olmo_inject.theory.forms.overlap import floor
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.prediction.optimizers import OptimizerSettings, simulate
from olmo_inject.theory.training.muon import Muon
from olmo_inject.theory.training.train import Recipe, train

MIXTURE = TaskMixture(
    np.array([0.9, 0.1]), (np.array([1.0, 0.5, 0.2, 0.05]), np.array([1.0])), null_directions=4, basis="random"
)


@pytest.mark.slow
def test_adam_forgets_at_shorter_or_longer_gaps_by_its_learning_rate() -> None:
    held = []
    for rate in (1e-3, 1e-1):
        settings = OptimizerSettings("adam", rate, steps=1200, seeds=2)
        found = simulate(MIXTURE, 1, [4], [1, 10, 100, 400], settings)
        assert (found.low <= found.troughs).all()
        assert (found.troughs <= found.high).all()
        held.append(found.longest_held()[0] or 0)
    assert held[0] > held[1]


def test_overlapping_tasks_are_simulated_too_and_keep_their_floor() -> None:
    mixture = shared_slot(0.3, dimension=12, commons=5, utility=0.6).turned(seed=4)
    found = simulate(mixture, 1, [5], [1, 200], OptimizerSettings("adam", 1e-2, steps=600, seeds=2))
    assert found.troughs[0, :, 0] == pytest.approx(float(found.static[0]), abs=0.01)
    assert found.troughs[0, :, 1] == pytest.approx(floor(mixture, 1, 5), abs=0.05)


def test_muon_moves_every_direction_alike_and_reaches_the_optimum() -> None:
    rows = torch.zeros(2, 3, dtype=torch.float64)
    rows.grad = torch.tensor([[3.0, 0, 0], [0, 0.1, 0]], dtype=torch.float64)
    Muon([rows], 0.5, 0.9).step()
    assert torch.allclose(rows, -0.5 * torch.eye(2, 3, dtype=torch.float64))
    rows.grad = torch.zeros(2, 3, dtype=torch.float64)
    Muon([rows], 0.5, 0.0).step()
    assert torch.allclose(rows, -0.5 * torch.eye(2, 3, dtype=torch.float64))
    result = train(MIXTURE, 3, Recipe(steps=400, learning_rate=0.03, optimizer="muon"), seeds=(0, 1))
    assert (result.overlap == 1).all()
    assert result.excess.max() < 1e-3


@pytest.mark.slow
def test_predict_simulates_what_has_no_closed_form_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "tasks: {a: {frequency: 0.9, spectrum: {power: 1, features: 3}},"
        " b: {frequency: 0.1, spectrum: {values: [1]}}}\n"
        "widths: [2]\ngaps: [1, 20]\noptimizer: {name: adam, learning_rate: 0.01, steps: 200, seeds: 2, beta2: 0.99}\n"
    )
    shown = CliRunner().invoke(app, ["predict", str(path)])
    assert shown.exit_code == 0, shown.exception
    assert "simulated with adam" in " ".join(shown.output.split())
    document = json.loads(CliRunner().invoke(app, ["predict", str(path), "--json"]).stdout)
    run = document["simulated"][1]
    assert (run["task"], run["simulated"]) == ("b", True)
    assert len(run["troughs"]["2"]["20"]["seeds"]) == 2
    assert run["displacement_per_burst"]["20"] > run["displacement_per_burst"]["1"]


def test_predict_simulates_overlapping_tasks_with_their_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "tasks: {a: {frequency: 0.9, spectrum: {power: 1, features: 3}},"
        " b: {frequency: 0.1, spectrum: {values: [1]}}}\noverlaps: [{tasks: [a, b], cosine: 0.5}]\n"
        "widths: [2]\ngaps: [1, 20]\noptimizer: {name: adam, learning_rate: 0.01, steps: 60, seeds: 1}\n"
    )
    shown = CliRunner().invoke(app, ["predict", str(path)])
    assert shown.exit_code == 0, shown.exception
    assert "under gradient flow" in " ".join(shown.output.split())
    assert "simulated with adam" in " ".join(shown.output.split())
    document = json.loads(CliRunner().invoke(app, ["predict", str(path), "--json"]).stdout)
    assert [run["task"] for run in document["simulated"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "sgd"}, "optimizer.name must be one of plain, adam, muon"),
        ({"learning_rate": 0.0}, "optimizer.learning_rate must be a finite number above 0"),
        ({"name": "adam", "beta2": 1.0}, "beta2 must be a finite number above 0 and below 1"),
        ({"seeds": 0}, "optimizer.seeds must be a whole number of 1 or more"),
    ],
)
def test_impossible_settings(values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerSettings(**values)
    with pytest.raises(UserError, match="needs optimizer.steps of 1500 or more"):
        simulate(MIXTURE, 1, [2], [500], OptimizerSettings("adam", steps=1000))
