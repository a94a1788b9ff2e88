"""Wrong inputs: every argument of every public function, one at a time, against every kind of nonsense."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mixtures
from wrong import (
    MIXTURE,
    MIXTURES,
    NUMBER,
    NUMBERS,
    TANGLED,
    TASKS,
    WHOLE,
    WHOLES,
    WORD,
    Row,
    check_refused,
    rows,
    untested,
)

from olmo_inject.errors import UserError
from olmo_inject.theory import arguments
from olmo_inject.theory.forms import closed_forms, gaps, kept, overlap
from olmo_inject.theory.mixtures import frequencies, mixture, overlapping, task_mixture
from olmo_inject.theory.mixtures.features import random_encoder
from olmo_inject.theory.mixtures.frequencies import mixture_from_frequencies, parse_rate
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law

ENCODER = random_encoder(2, MIXTURE.dimension, 0)

PUBLIC: list[Row] = [
    (
        closed_forms.checked_widths,
        {"mixture": TANGLED, "widths": [1]},
        {"mixture": MIXTURES, "widths": [*WHOLES, [10]]},
    ),
    (
        closed_forms.widths_to_meet,
        {"mixture": MIXTURE, "demanded": MIXTURE.utilities},
        {"mixture": [*MIXTURES, TANGLED], "demanded": [np.ones(3), np.full(12, np.nan)], "against": TASKS},
    ),
    (gaps.rival_utilities, {"mixture": MIXTURE, "places": np.ones((1, 4), int), "against": None}, {"against": TASKS}),
    (gaps.check_step_size, {"mixture": MIXTURE, "step_size": 0.1}, {"mixture": MIXTURES, "step_size": [*NUMBER, 9.0]}),
    (gaps.checked_betas, {"beta1": 0.9, "beta2": 0.99}, {"beta1": [*NUMBER, 0.999], "beta2": [*NUMBER, 0.5, 1.0]}),
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
    (parse_rate, {"value": 1, "where": "x"}, {"value": [*NUMBER, "1/0"]}),
    (
        mixture_from_frequencies,
        {"names": ["a"], "instances_per_batch": [1], "spectra": [np.ones(1)], "batch": 8, "background": MIXTURE},
        {"names": [[], ["a", "b"]], "instances_per_batch": [[True], [-1], [math.nan]], "batch": [*WHOLE, 1]}
        | {"spectra": [[[1.0, 2.0]], [[math.nan]]]},
    ),
    *[
        (getattr(closed_forms, name), {"mixture": MIXTURE, **more}, {"mixture": [*MIXTURES, TANGLED]})
        for name, more in (
            ("retained_features", {"widths": [1]}),
            ("tied_boundary", {"widths": [1]}),
            ("minimal_widths", {"depths": [1]}),
            ("residuals", {"widths": [1], "tasks": [0]}),
            ("residual_width", {"share": 0.1, "tasks": [0]}),
            ("critical_widths", {}),
        )
    ],
    *[
        (getattr(closed_forms, name), {"mixture": TANGLED, "widths": [1]}, {"mixture": MIXTURES, "widths": WHOLES})
        for name in ("task_losses", "task_signals", "mixture_losses")
    ],
    (closed_forms.frequent_tasks, {"mixture": TANGLED}, {"mixture": MIXTURES}),
    (gaps.gap_critical_widths, {"mixture": MIXTURE, "gap": 3, "step_size": 0.1}, {"mixture": [*MIXTURES, TANGLED]}),
    (gaps.longest_gaps, {"mixture": MIXTURE, "widths": [1], "step_size": 0.1}, {"mixture": [*MIXTURES, TANGLED]}),
    (kept.longest_kept_gaps, {"mixture": MIXTURE, "widths": [1], "step_size": 0.1}, {"mixture": [*MIXTURES, TANGLED]}),
    (kept.unheld_utilities, {"mixture": MIXTURE, "widths": [1]}, {"mixture": [*MIXTURES, TANGLED], "widths": WHOLES}),
    (
        OverlappingMixture,
        {"frequencies": [1.0], "spectra": ([1.0, 0.5],), "directions": np.eye(2)},
        {"frequencies": NUMBERS, "spectra": [([1.0],), ([1.0, math.nan],)], "names": [("a", "b"), (1,)]}
        | {"directions": [*NUMBERS, np.eye(3), np.zeros((2, 2)), np.ones(2)]},
    ),
    (OverlappingMixture.of, {"mixture": MIXTURE}, {"mixture": MIXTURES}),
    (
        OverlappingMixture.from_grams,
        {"frequencies": [1.0], "grams": [np.eye(2)]},
        {"grams": [None, 3, [], [np.eye(2), np.eye(3)], [[1.0]], [np.zeros((2, 2))], [-np.eye(2)], [[[1, 2], [0, 1]]]]},
    ),
    (
        OverlappingMixture.from_overlaps,
        {"frequencies": [1.0], "spectra": [[1.0, 0.5]], "overlaps": np.eye(2)},
        {"overlaps": [*NUMBERS, np.eye(3), 2 * np.eye(2), np.array([[1, 2], [2, 1]])], "spectra": [[[1.0]], None]},
    ),
    (
        OverlappingMixture.superposed,
        {"mixture": MIXTURE, "dimension": 5},
        {"mixture": MIXTURES, "dimension": [*WHOLE, 2], "seed": WHOLE},
    ),
    (TANGLED.task_signals, {"widths": [1]}, {"widths": [*WHOLES, [0], [10]]}),
    (TANGLED.loss_bracket, {"widths": [1]}, {"widths": [*WHOLES, [0], [10]]}),
    (TANGLED.width_to, {"task": 0, "share": 0.5}, {"task": [*WHOLE, 4], "share": [*NUMBER, 0.0, 1.1]}),
    (TANGLED.encoder, {"width": 2}, {"width": [*WHOLE, 0, 10]}),
    *[
        (
            function,
            {"mixture": MIXTURE, "encoder": ENCODER.numpy()},
            {"mixture": MIXTURES, "encoder": [*NUMBERS, np.eye(3)]},
        )
        for function in (overlap.task_gradients, overlap.gradient_products, overlap.gradient_cosines)
    ],
    (
        overlap.cosine_at_random,
        {"mixture": MIXTURE, "first": 0, "second": 1},
        {"mixture": MIXTURES, "first": [*WHOLE, 4], "second": [*WHOLE, 4]},
    ),
    (overlap.gradient_norms, {"mixture": TANGLED, "width": 2}, {"mixture": [*MIXTURES, MIXTURE], "width": [*WHOLE, 0]}),
    (overlap.conflict, {"mixture": TANGLED, "width": 2}, {"mixture": [*MIXTURES, MIXTURE], "width": [*WHOLE, 0]}),
    (
        overlap.floor,
        {"mixture": TANGLED, "task": 1, "width": 2},
        {"mixture": [*MIXTURES, MIXTURE], "task": [*WHOLE, 4], "width": [*WHOLE, 0]},
    ),
    (
        overlap.flow_cycle,
        {"mixture": TANGLED, "task": 1, "gap": 3, "width": 2, "step_size": 0.1},
        {"mixture": [*MIXTURES, MIXTURE], "task": [*WHOLE, 4], "gap": [*WHOLE, 0], "width": [*WHOLE, 0]}
        | {"step_size": [*NUMBER, 0.0]},
    ),
]


@pytest.mark.usefixtures("unchecked")
@rows(PUBLIC)
def test_wrong_input_is_one_line_and_never_a_result(function, right, wrong) -> None:
    check_refused(function, right, wrong)


def test_no_public_function_is_left_out() -> None:
    modules = (closed_forms, gaps, kept, overlap, mixture, task_mixture, overlapping, frequencies)
    assert untested(PUBLIC, modules) == {"FlowCycle"}  # a result


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


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.one_of(st.none(), st.booleans(), st.text(), st.complex_numbers(), st.floats(), st.lists(st.booleans())))
def test_a_number_is_a_finite_real_one_or_refused(value: object) -> None:
    if type(value) is float and math.isfinite(value):
        assert arguments.number("x", value) == value
    else:
        with pytest.raises(UserError) as caught:
            arguments.number("x", value)
        assert "\n" not in str(caught.value)


def test_numpy_s_numbers_count_as_numbers() -> None:
    for value in (np.int64(2), np.float32(2), np.array(2), 2, Fraction(2)):
        assert arguments.number("x", float(value)) == 2
    assert arguments.whole("x", np.int64(3), 1, 3) == arguments.whole("x", 3.0) == 3
    assert TaskMixture.power_law(2, 2, np.int64(2), np.int64(3)).eigenvalues[1] == pytest.approx(1 / 9)
