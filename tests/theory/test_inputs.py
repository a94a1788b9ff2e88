"""Wrong inputs: every argument of every public function, one at a time, against every kind of nonsense."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mixtures

from olmo_inject.errors import UserError
from olmo_inject.theory import inputs
from olmo_inject.theory.forms import closed_forms, gaps, kept
from olmo_inject.theory.mixtures.features import random_encoder
from olmo_inject.theory.mixtures.frequencies import mixture_from_frequencies, parse_rate
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law
from olmo_inject.theory.prediction.predict import predict
from olmo_inject.theory.scaling.fit import fit_power_law, fit_scaling_law
from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw
from olmo_inject.theory.training import dynamics, metrics
from olmo_inject.theory.training.streams import Bursts
from olmo_inject.theory.training.train import Recipe, train

MIXTURE = TaskMixture.power_law(4, 3, null_directions=4)
LAW = ScalingLaw(1.0, 2.0, 3.0, 0.4, 0.5)
POINTS = {"sizes": np.geomspace(1, 1e3, 12), "data": np.tile([1.0, 10, 100], 4), "losses": np.linspace(3, 2, 12)}

NEVER = [math.nan, math.inf, -math.inf, "x", True, 1j, None, object(), [[1], [1, 2]]]
NUMBER = [*NEVER, -1.0, [1.0, 2.0]]
WHOLE = [*NUMBER, 2.5, np.nan, np.float64(1e300)]
NUMBERS = [math.nan, [1.0, math.inf], "x", [True, False], 1j, np.array([1j]), None, -1.0, [[1], [1, 2]]]
WHOLES = [[math.nan], [2.5], ["x"], [True, False], [1j], [-1], np.array([0.5]), [10**30], 3, None, [[1, 2]]]
TASKS = [[-1], [99], [0.5], [math.nan], np.array([True, False, True, False]), [True], "01", 3, ["x"], {1j}]
WORD = ["Adam", "", None, 3, ["axis"]]

# A function, arguments at which it works, and what each argument is.
PUBLIC: list[tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]] = [
    (
        TaskMixture,
        {"frequencies": [0.6, 0.4], "spectra": ([1.0, 0.5], [1.0])},
        {"frequencies": [*NUMBERS, [0.5, 0.6], [0.5, 0.3, 0.2]], "null_directions": WHOLE, "basis_seed": WHOLE}
        | {"basis": WORD, "spectra": [([1.0],), ([1.0], [math.nan]), ([1.0, 2.0], [1.0]), ([1.0], []), ([1.0], [True])]}
        | {"names": [("a", "a"), ("a",), (1, 2)]},
    ),
    (
        TaskMixture.power_law,
        {},
        {"tasks": WHOLE, "features": WHOLE, "frequency_power": NUMBER, "null_directions": WHOLE}
        | {"spectrum_power": NUMBERS},
    ),
    (power_law, {"count": 3, "power": 1.0}, {"count": WHOLE, "power": NUMBER}),
    (MIXTURE.alone, {"task": 1}, {"task": [*WHOLE, 4]}),
    (MIXTURE.gram, {"tasks": [1]}, {"tasks": TASKS}),
    (closed_forms.task_losses, {"mixture": MIXTURE, "widths": [1]}, {"widths": [*WHOLES, [0], [99]]}),
    (closed_forms.task_signals, {"mixture": MIXTURE, "widths": [1]}, {"widths": WHOLES}),
    (closed_forms.retained_features, {"mixture": MIXTURE, "widths": [1]}, {"widths": WHOLES}),
    (closed_forms.mixture_losses, {"mixture": MIXTURE, "widths": [1]}, {"widths": WHOLES}),
    (closed_forms.tied_boundary, {"mixture": MIXTURE, "widths": [1]}, {"widths": WHOLES}),
    (closed_forms.minimal_widths, {"mixture": MIXTURE, "depths": [1]}, {"depths": [*WHOLES, [0], [4]]}),
    (closed_forms.frequent_tasks, {"mixture": MIXTURE, "mass": 0.9}, {"mass": [*NUMBER, 0.0, 1.1]}),
    (closed_forms.residuals, {"mixture": MIXTURE, "widths": [1], "tasks": {0, 1}}, {"widths": WHOLES, "tasks": TASKS}),
    (
        closed_forms.residual_width,
        {"mixture": MIXTURE, "share": 0.1, "tasks": [0]},
        {"share": [*NUMBER, 1.0], "tasks": TASKS},
    ),
    (closed_forms.critical_widths, {"mixture": MIXTURE, "against": [0]}, {"against": TASKS}),
    (
        gaps.gap_critical_widths,
        {"mixture": MIXTURE, "gap": 3, "step_size": 0.1},
        {"gap": [*WHOLE, 0], "step_size": [*NUMBER, 0.0, 99.0], "against": TASKS},
    ),
    (
        gaps.longest_gaps,
        {"mixture": MIXTURE, "widths": [1], "step_size": 0.1},
        {"widths": WHOLES, "step_size": [*NUMBER, 0.0, 99.0], "against": TASKS},
    ),
    (
        gaps.gap_retention,
        {"gap": 3, "eigenvalue": 0.1, "step_size": 0.1},
        {"gap": [*NUMBERS, 0], "eigenvalue": [*NUMBERS, 5.0], "step_size": [*NUMBER, 0.0]},
    ),
    (
        gaps.period_growth,
        {"gap": 3, "eigenvalue": 0.1, "utility": 0.1, "step_size": 0.1},
        {"gap": [*NUMBERS, 0], "eigenvalue": NUMBERS, "utility": NUMBERS, "step_size": NUMBER},
    ),
    (
        gaps.demanded_utility,
        {"gap": 3, "eigenvalue": 0.1, "step_size": 0.1},
        {"gap": [*NUMBERS, 0], "eigenvalue": NUMBERS, "step_size": NUMBER},
    ),
    (
        gaps.adam_displacement,
        {"gap": 3, "learning_rate": 0.1},
        {"gap": [*NUMBERS, 0], "learning_rate": [*NUMBER, 0.0], "beta1": [*NUMBER, 1.0], "beta2": [*NUMBER, 1.0]},
    ),
    (
        kept.tilt_growth,
        {"gap": 3, "unheld": 0.1, "utility": 0.2, "step_size": 0.1},
        {"gap": [*NUMBERS, 0], "unheld": NUMBERS, "utility": NUMBERS, "step_size": [*NUMBER, 0.0]},
    ),
    (
        kept.longest_kept_gaps,
        {"mixture": MIXTURE, "widths": [1], "step_size": 0.1},
        {"widths": WHOLES, "step_size": [*NUMBER, 0.0, 99.0], "against": TASKS},
    ),
    (
        kept.gap_regime,
        {"mixture": MIXTURE, "task": 1, "width": 2, "gap": 3, "step_size": 0.1},
        {"task": [*WHOLE, 4], "width": [*WHOLE, 0], "gap": [*WHOLE, 0], "step_size": [*NUMBER, 99.0]},
    ),
    (random_encoder, {"width": 2, "dimension": 3, "seed": 0}, {"width": [*WHOLE, 4], "dimension": WHOLE}),
    (parse_rate, {"value": 1, "where": "x"}, {"value": [*NUMBER, "1/0"]}),
    (
        mixture_from_frequencies,
        {"names": ["a"], "instances_per_batch": [1], "spectra": [np.ones(1)], "batch": 8, "background": MIXTURE},
        {"names": [[], ["a", "b"]], "instances_per_batch": [[True], [-1], [math.nan]], "batch": [*WHOLE, 1]}
        | {"spectra": [[[1.0, 2.0]], [[math.nan]]]},
    ),
    (metrics.normalised_signal, {"signal": 0.5, "width": 2, "dimension": 5}, {"signal": NUMBERS[:-2], "width": WHOLE}),
    (
        metrics.haar_moments,
        {"spectrum": [1.0, 0.5], "width": 2, "dimension": 5},
        {"spectrum": [*NUMBERS, [], [0.0]], "width": [*WHOLE, 6], "dimension": [*WHOLE, 1]},
    ),
    (
        metrics.captures,
        {"mixture": MIXTURE, "encoder": random_encoder(2, MIXTURE.dimension, 0)},
        {"encoder": [torch.ones(2, 3), torch.full((2, MIXTURE.dimension), math.nan), torch.ones(MIXTURE.dimension)]},
    ),
    (
        metrics.losses_from_captures,
        {"mixture": MIXTURE, "captured": np.zeros(MIXTURE.features)},
        {"captured": [np.zeros(3), np.full(MIXTURE.features, math.nan), 1.0, np.zeros(MIXTURE.features, dtype=bool)]},
    ),
    (
        dynamics.two_direction_flow,
        {"tangent": 0.1, "frequent": 0.4, "rare": 0.2, "times": np.arange(3.0)},
        {"tangent": NEVER, "frequent": NUMBER, "rare": NUMBER, "times": [math.nan, "x", [True]]},
    ),
    (
        dynamics.two_direction_steps,
        {"angle": 0.1, "frequent": 0.4, "rare": [0.2], "step_size": 0.1},
        {"angle": [*NEVER, 2.0], "frequent": NUMBER, "rare": NUMBERS, "step_size": [*NUMBER, 0.0]},
    ),
    (
        ScalingLaw,
        {"irreducible": 0.0, "size_coefficient": 1.0, "data_coefficient": 1.0, "alpha": np.float32(0.4), "beta": 0.5},
        {"irreducible": NUMBER, "size_coefficient": NUMBER, "data_coefficient": NUMBER, "alpha": NUMBER, "beta": [0]},
    ),
    (PowerLaw, {"irreducible": 0, "coefficient": 1, "gamma": np.int64(1)}, {"coefficient": NUMBER, "gamma": NUMBER}),
    (LAW.loss, {"size": 2, "data": np.int64(3)}, {"size": [*NUMBERS, 0.0], "data": [*NUMBERS, 0.0]}),
    (LAW.optimal_size, {"compute": 1e6}, {"compute": [*NUMBER, 0.0], "cost": [*NUMBER, 0.0]}),
    (Regimes(LAW, LAW.frontier()).largest_small, {"large": 9}, {"large": WHOLE, "margin": NUMBER}),
    (Regimes(LAW, LAW.frontier()).data_suffices, {"small": 1, "large": 9}, {"small": NUMBER, "large": NUMBER}),
    (
        fit_scaling_law,
        {**POINTS, "losses": LAW.loss(POINTS["sizes"], POINTS["data"])},
        {name: [*NUMBERS, np.ones(3), np.zeros(12)] for name in POINTS},
    ),
    (
        fit_power_law,
        {"quantity": POINTS["sizes"], "losses": LAW.frontier().loss(POINTS["sizes"])},
        {"quantity": [*NUMBERS, np.ones(12)], "losses": NUMBERS},
    ),
    (Bursts, {"task": 0, "gaps": (1, 2)}, {"task": WHOLE, "gaps": [*WHOLES, (0,), ()]}),
    (
        Recipe,
        {},
        {"steps": WHOLE, "learning_rate": [*NUMBER, 0.0], "optimizer": WORD, "schedule": WORD, "decoders": WORD}
        | {"batch": [value for value in [*WHOLE, 0] if value is not None], "dtype": [torch.int32, "float32"]},
    ),
    (
        train,
        {"mixture": MIXTURE, "width": 2, "recipe": Recipe(steps=1)},
        {"width": [*WHOLE, 0, 99], "seeds": [*WHOLES, ()]},
    ),
    (
        predict,
        {"mixture": MIXTURE, "widths": [1]},
        {"widths": [*WHOLES, []], "periods": [*WHOLES, [], [0]], "step_size": [*NUMBER, 0.0, 0.5]}
        | {"frequent_mass": [*NUMBER, 0.0], "residual_share": [*NUMBER, 1.0]},
    ),
]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the annotations' own checks, as users run it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("function", "right", "wrong"), PUBLIC, ids=[getattr(row[0], "__qualname__", "?") for row in PUBLIC]
)
def test_wrong_input_is_one_line_and_never_a_result(function, right, wrong) -> None:
    function(**right)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UserError) as caught:
                pytest.fail(f"{name}={value!r} gives {function(**{**right, name: value})!r}")
            assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(mixtures(), st.data())
def test_tasks_may_be_any_collection(mixture: TaskMixture, data) -> None:
    chosen = data.draw(st.sets(st.integers(0, mixture.tasks - 1), min_size=1))
    expected = mixture.utilities[np.isin(mixture.task_of, list(chosen))].sum()
    for tasks in (chosen, sorted(chosen), tuple(chosen), np.array(sorted(chosen)), iter(chosen), [*chosen, *chosen]):
        assert np.trace(mixture.gram(tasks)) == pytest.approx(expected)


def test_a_mixture_shares_no_memory_with_what_it_was_made_of() -> None:
    frequencies, spectrum = np.array([0.6, 0.4]), np.array([1.0, 0.5])
    mixture = TaskMixture(frequencies, (spectrum, spectrum))
    before = mixture.utilities.copy()
    frequencies[0], spectrum[0] = 0.9, 7.0
    assert (mixture.frequencies == [0.6, 0.4]).all()
    assert (mixture.spectra[0] == [1.0, 0.5]).all()
    for name in ("frequencies", "eigenvalues", "utilities", "traces", "directions", "learning_order"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(mixture, name)[0] = 0
    assert (mixture.utilities == before).all()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.none(), st.booleans(), st.text(), st.complex_numbers(), st.floats(), st.lists(st.booleans())))
def test_a_number_is_a_finite_real_one_or_refused(value: object) -> None:
    if type(value) is float and math.isfinite(value):
        assert inputs.number("x", value) == value
    else:
        with pytest.raises(UserError) as caught:
            inputs.number("x", value)
        assert "\n" not in str(caught.value)


def test_numpy_s_numbers_count_as_numbers() -> None:
    for value in (np.int64(2), np.float32(2), np.array(2), 2, Fraction(2)):
        assert inputs.number("x", float(value)) == 2
    assert inputs.whole("x", np.int64(3), 1, 3) == inputs.whole("x", 3.0) == 3
    assert TaskMixture.power_law(2, 2, np.int64(2), np.int64(3)).eigenvalues[1] == pytest.approx(1 / 9)
