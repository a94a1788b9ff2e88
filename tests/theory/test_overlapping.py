import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mixtures
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.commands import app
from olmo_inject.theory.forms import closed_forms, overlap
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture

few = settings(max_examples=40, deadline=None)
PLANE = OverlappingMixture([0.8, 0.2], ([1.0], [1.0]), np.array([[1.0, np.cos(0.8)], [0.0, np.sin(0.8)], [0.0, 0.0]]))


@few
@given(mixtures())
def test_without_overlap_every_number_is_the_orthogonal_mixture_s(mixture: TaskMixture) -> None:
    same, widths = OverlappingMixture.of(mixture), np.arange(1, mixture.dimension + 1)
    assert same.slots == pytest.approx(np.sort(mixture.utilities)[::-1], abs=1e-12)
    assert same.mixture_losses(widths) == pytest.approx(closed_forms.mixture_losses(mixture, widths), abs=1e-11)
    untied = ~closed_forms.tied_boundary(mixture, widths)
    assert same.task_losses(widths)[untied] == pytest.approx(
        closed_forms.task_losses(mixture, widths)[untied], abs=1e-11
    )
    assert overlap.conflict(same, 1) == pytest.approx(0, abs=1e-12)


@few
@given(mixtures(), st.integers(0, 9), st.integers(5, 12))
def test_overlap_never_raises_the_loss_and_shares_sum_to_one(mixture: TaskMixture, seed: int, dimension: int) -> None:
    tangled = OverlappingMixture.superposed(mixture, dimension, seed)
    widths = np.arange(1, dimension + 1)
    lower, upper = tangled.loss_bracket(widths)
    losses = tangled.mixture_losses(widths)
    assert (lower <= losses + 1e-10).all()
    assert (losses <= upper + 1e-10).all()
    assert tangled.shares.sum(0) == pytest.approx(np.ones(tangled.features))
    assert (np.diff(tangled.task_signals(widths), axis=0) >= -1e-10).all()
    assert tangled.task_losses(widths) @ tangled.frequencies == pytest.approx(losses, abs=1e-9)


def test_two_directions_share_the_first_slot() -> None:
    root = np.sqrt(0.36 + 4 * 0.16 * np.cos(0.8) ** 2)
    assert PLANE.slots == pytest.approx([(1 + root) / 2, (1 - root) / 2])
    assert PLANE.slots.prod() == pytest.approx(0.16 * np.sin(0.8) ** 2)
    assert overlap.floor(PLANE, 1, 1) == pytest.approx(np.cos(0.8) ** 2)
    assert PLANE.width_to(1, 0.5) == 1
    assert PLANE.width_to(1, 0.99) == 2


def test_grams_overlaps_and_directions_say_the_same() -> None:
    grams = [PLANE.gram([k]) / PLANE.frequencies[k] for k in (0, 1)]
    cosine = [[1.0, np.cos(0.8)], [np.cos(0.8), 1.0]]
    for other in (
        OverlappingMixture.from_grams([0.8, 0.2], grams),
        OverlappingMixture.from_overlaps([0.8, 0.2], [[1.0], [1.0]], cosine),
    ):
        assert other.slots == pytest.approx(PLANE.slots)
        assert other.task_signals([1, 2]) == pytest.approx(PLANE.task_signals([1, 2]))


def test_more_overlap_than_chance_helps_at_random() -> None:
    apart = OverlappingMixture.of(TaskMixture.power_law(2, 1, null_directions=3))
    assert overlap.cosine_at_random(apart, 0, 1) < 0 < overlap.cosine_at_random(PLANE, 0, 1)


def test_the_superposition_example() -> None:
    mixture = TaskMixture.power_law()
    tangled = OverlappingMixture.superposed(mixture, 200)
    # Half of task 13 may take more width than without overlap although part of it is free from the start.
    assert tangled.task_signals([16])[0, 12] > 0.1
    assert 22 <= tangled.width_to(12, 0.5) <= 30
    assert tangled.mixture_losses([32])[0] / tangled.traces.mean() < 0.0744


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OverlappingMixture([1.0], ([1.0],), np.ones((3, 2))), "a column for each of 1 features"),
        (lambda: OverlappingMixture([1.0], ([1.0],), np.zeros((3, 1))), "must not be zero"),
        (lambda: OverlappingMixture([1.0], ([1.0],), np.full((3, 1), np.nan)), "directions must be a finite number"),
        (lambda: OverlappingMixture.from_grams([1.0], [-np.eye(2)]), "positive semidefinite"),
        (lambda: OverlappingMixture.from_grams([1.0], [np.array([[1.0, 1], [0, 1]])]), "symmetric"),
        (lambda: OverlappingMixture.from_grams([0.5, 0.5], [np.eye(2), np.eye(3)]), "the same size"),
        (lambda: OverlappingMixture.from_overlaps([1.0], [[1.0, 1.0]], [[1, 2], [2, 1]]), "semidefinite"),
        (lambda: OverlappingMixture.from_overlaps([1.0], [[1.0]], [[0.5]]), "ones on the diagonal"),
        (lambda: OverlappingMixture.superposed(TaskMixture.power_law(2, 5), 4), "dimension must be a whole number"),
        (lambda: PLANE.task_signals([4]), "width must be a whole number from 1 to 3, got 4"),
        (lambda: PLANE.width_to(1, 1.5), "share must be a finite number"),
        (lambda: overlap.flow_cycle(PLANE, 2, 3, 1, 0.1), "task must be a whole number from 0 to 1, got 2"),
        (lambda: overlap.flow_cycle(PLANE, 1, 0, 1, 0.1), "gap must be a whole number of 1 or more"),
        (lambda: overlap.floor(PLANE, -1, 1), "task must be a whole number"),
        (lambda: overlap.cosine_at_random(PLANE, 0, 5), "task must be a whole number"),
    ],
)
def test_impossible_overlaps_get_one_line(make, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


CONFIG = """
tasks:
  common: {frequency: 0.8, spectrum: {values: [1]}}
  rare: {frequency: 0.2, spectrum: {values: [1]}}
widths: [1, 2]
gaps: [1, 100]
"""


@pytest.mark.parametrize(
    "override",
    [
        ["overlaps=[{tasks: [common, rare], cosine: 0.6}]"],
        ["tasks.common.directions=[[1, 0]]", "tasks.rare.directions=[[0.6, 0.8]]"],
        [
            "tasks={common: {frequency: 0.8, gram: [[1, 0], [0, 0]]}, "
            "rare: {frequency: 0.2, gram: [[0.36, 0.48], [0.48, 0.64]]}}"
        ],
    ],
    ids=["cosines", "directions", "grams"],
)
def test_predict_takes_overlaps_in_three_ways(tmp_path: Path, override: list[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("widths: [1, 2]\ngaps: [1, 100]\n" if "gram" in override[0] else CONFIG)
    result = CliRunner().invoke(app, ["predict", str(path), *override, "--json"])
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    rare = document["tasks"][1]
    assert rare["floor"]["1"] == pytest.approx(0.36)
    assert rare["held_share"]["2"] == pytest.approx(1)
    assert rare["trough"]["1"]["1"] > rare["trough"]["100"]["1"] >= 0.36 - 1e-9
    assert CliRunner().invoke(app, ["predict", str(path), *override]).output.count("36.0%") >= 2


def test_the_learning_rate_of_plain_steps_is_the_step_of_the_flow(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(CONFIG + "overlaps: [{tasks: [common, rare], cosine: 0.6}]\n")
    largest = float(OverlappingMixture.from_overlaps([0.8, 0.2], [[1.0], [1.0]], [[1, 0.6], [0.6, 1]]).slots[0])
    troughs = []
    for option in (f"optimizer.learning_rate={0.01 / largest}", "step_size=0.01", "step_size=0.1"):
        result = CliRunner().invoke(app, ["predict", str(path), option, "widths=[1]", "--json"])
        troughs.append(json.loads(result.stdout)["tasks"][1]["trough"]["100"]["1"])
    assert troughs[0] == pytest.approx(troughs[1], rel=1e-9)
    assert troughs[1] > troughs[2] + 0.01
