"""Wrong inputs of predictions, estimates and scaling laws, one argument at a time."""

import numpy as np
import pytest
from wrong import (
    MIXTURE,
    MIXTURES,
    NUMBER,
    NUMBERS,
    TANGLED,
    WHOLE,
    WHOLES,
    WORD,
    Row,
    check_refused,
    rows,
    untested,
)

from olmo_inject.theory.prediction import estimate, optimizers
from olmo_inject.theory.prediction import overlapping as overlaps
from olmo_inject.theory.prediction import predict as prediction
from olmo_inject.theory.prediction.estimate import UtilityEstimate, estimate_utilities, matched_cells, parse_cell
from olmo_inject.theory.prediction.optimizers import OptimizerSettings, simulate
from olmo_inject.theory.prediction.overlapping import predict_overlapping
from olmo_inject.theory.prediction.predict import predict
from olmo_inject.theory.scaling import fit, laws
from olmo_inject.theory.scaling.fit import fit_power_law, fit_scaling_law
from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw

SIMULATED = simulate(MIXTURE, 1, [2], [1], OptimizerSettings("adam", steps=3, seeds=1))
CELLS = {"widths": np.repeat([8.0, 16, 32], 4), "frequencies": np.tile([0.1, 1, 10, 100], 3)}
STEP = UtilityEstimate(0.4, 2.5, 1.7, 1.2, 3.0)
LAW = ScalingLaw(1.0, 2.0, 3.0, 0.4, 0.5)
POINTS = {"sizes": np.geomspace(1, 1e3, 12), "data": np.tile([1.0, 10, 100], 4), "losses": np.linspace(3, 2, 12)}

PUBLIC: list[Row] = [
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
    (Regimes, {"law": LAW, "frontier": LAW.frontier()}, {"law": [None, 3, LAW.frontier()], "frontier": [None, LAW]}),
    (
        OptimizerSettings,
        {"name": "adam"},
        {"name": WORD, "learning_rate": [*NUMBER, 0.0], "beta1": [*NUMBER, 1.0], "beta2": [*NUMBER, 1.0]}
        | {"steps": [*WHOLE, 0], "seeds": [*WHOLE, 0]},
    ),
    (
        simulate,
        {"mixture": MIXTURE, "task": 1, "widths": [2], "periods": [1], "settings": OptimizerSettings(steps=3, seeds=1)},
        {
            "mixture": MIXTURES,
            "task": [*WHOLE, 4],
            "widths": [*WHOLES, []],
            "periods": [*WHOLES, []],
            "settings": [None, 3],
        },
    ),
    (SIMULATED.longest_held, {}, {"share": [*NUMBER, 0.0, 1.1]}),
    (
        estimate_utilities,
        {**CELLS, "losses": STEP.loss(*CELLS.values())},
        {name: [*NUMBERS, np.ones(3), np.ones(12)] for name in (*CELLS, "losses")},
    ),
    (STEP.loss, {"widths": 8, "frequencies": 1}, {"widths": [*NUMBERS, 0.0], "frequencies": [*NUMBERS, 0.0]}),
    (parse_cell, {"text": "8:1"}, {"text": [None, 3, "8", "8:x", "x:1", "0:1", "8:0", "²:1"]}),
    (matched_cells, {"frequencies": np.ones(2), "gaps": np.ones(2)}, {"frequencies": [*NUMBERS, np.zeros(2)]}),
    (
        predict_overlapping,
        {"mixture": TANGLED, "followed": [1], "widths": [2], "periods": [3]},
        {"mixture": [*MIXTURES, MIXTURE], "followed": [*WHOLES, [4]], "widths": [*WHOLES, []], "periods": [*WHOLES, []]}
        | {"step_size": [*NUMBER, 0.0, 0.5]},
    ),
    (predict, {"mixture": MIXTURE, "widths": [1]}, {"mixture": [*MIXTURES, TANGLED]}),
    (
        predict,
        {"mixture": MIXTURE, "widths": [1]},
        {"widths": [*WHOLES, []], "periods": [*WHOLES, [], [0]], "step_size": [*NUMBER, 0.0, 0.5]}
        | {"frequent_mass": [*NUMBER, 0.0], "residual_share": [*NUMBER, 1.0]},
    ),
]


@pytest.mark.usefixtures("unchecked")
@rows(PUBLIC)
def test_wrong_input_is_one_line_and_never_a_result(function, right, wrong) -> None:
    check_refused(function, right, wrong)


def test_no_public_function_is_left_out() -> None:
    made = {"Fit", "OverlapPrediction", "Prediction", "with_overlaps"}  # by functions, or from a file
    assert untested(PUBLIC, (laws, fit, prediction, overlaps, optimizers, estimate)) == made
