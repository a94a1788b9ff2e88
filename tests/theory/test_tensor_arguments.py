"""Wrong inputs of what works on tensors and trains, one argument at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from wrong import (
    ENCODERS,
    GRAMS,
    MIXTURE,
    MIXTURES,
    NEVER,
    NUMBER,
    NUMBERS,
    SIZES,
    TANGLED,
    WHOLE,
    WHOLES,
    WORD,
    Row,
    check_refused,
    rows,
    untested,
)

from olmo_inject.theory import tensors
from olmo_inject.theory.mixtures import features
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised, random_encoder, retracted
from olmo_inject.theory.training import dynamics, gradients, metrics, streams
from olmo_inject.theory.training import train as training
from olmo_inject.theory.training.streams import Bursts, MassStream, SampleStream
from olmo_inject.theory.training.train import Recipe, train

BANK = FeatureBank(MIXTURE, torch.float64, "cpu")
ENCODER, ROWS = random_encoder(2, MIXTURE.dimension, 0), torch.ones(3, MIXTURE.dimension, dtype=torch.float64)
MOMENT, DECODERS = torch.tensor(MIXTURE.gram()), torch.zeros(MIXTURE.features, 2, dtype=torch.float64)
SAMPLES = SampleStream(BANK, None, 3, (0,)).draw(0)
RUN = train(MIXTURE, 2, Recipe(steps=4), (0,), Bursts(1, (2,)))

PUBLIC: list[Row] = [
    (random_encoder, {"width": 2, "dimension": 3, "seed": 0}, {"width": [*WHOLE, 4], "dimension": WHOLE}),
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
    (metrics.captures, {"mixture": MIXTURE, "encoder": ENCODER}, {"mixture": MIXTURES, "encoder": SIZES}),
    (
        metrics.losses_from_captures,
        {"mixture": MIXTURE, "captured": np.zeros(MIXTURE.features)},
        {"captured": [np.zeros(3), np.full(MIXTURE.features, math.nan), 1.0, np.zeros(MIXTURE.features, dtype=bool)]},
    ),
    (metrics.signals_from_captures, {"mixture": MIXTURE, "captured": np.zeros(12)}, {"captured": [np.zeros(3), None]}),
    (tensors.check_dtype, {"value": torch.float32}, {"value": [torch.int32, "float32", None]}),
    (tensors.check_device, {"value": "cpu"}, {"value": ["nowhere", "cuda:99", 3.5]}),
    *[
        (
            check,
            {"name": "x", "value": torch.eye(2)},
            {"value": [None, 3, torch.ones(()), torch.full((2, 2), math.nan)]},
        )
        for check in (tensors.orthonormal, tensors.gram_matrix)
    ],
    (tensors.sized, {"name": "x", "value": torch.eye(2)}, {"value": [None, 3, torch.ones(2, dtype=torch.int32)]}),
    (tensors.real, {"name": "x", "value": torch.eye(2)}, {"value": [None, 3, torch.full((2, 2), math.nan)]}),
    (streams.checked_seeds, {"seeds": (0,)}, {"seeds": [*WHOLES, ()]}),
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
        FeatureBank,
        {"mixture": TANGLED, "dtype": torch.float32, "device": "cpu"},
        {"mixture": MIXTURES, "dtype": [torch.int32, "float32", None], "device": ["nowhere", "cuda:99", 3.5]},
    ),
    (BANK.only, {"task": 1}, {"task": [*WHOLE, 4]}),
    (BANK.project, {"rows": ROWS}, {"rows": SIZES}),
    (BANK.lift, {"components": DECODERS.T}, {"components": SIZES}),
    (BANK.moment, {"weights": torch.ones(12, dtype=torch.float64)}, {"weights": SIZES}),
    (orthonormalised, {"rows": ROWS[:1]}, {"rows": [*SIZES[:4], *SIZES[5:], ROWS.T, torch.full((2, 16), math.nan)]}),
    (retracted, {"rows": ROWS[:1]}, {"rows": [*SIZES[:4], *SIZES[5:], ROWS.T]}),
    (gradients.tangent, {"encoder": ENCODER, "rows": ROWS}, {"encoder": SIZES, "rows": SIZES}),
    (gradients.population_gradient, {"encoder": ENCODER, "moved": ENCODER}, {"encoder": SIZES, "moved": SIZES}),
    (
        gradients.sampled_gradient,
        {"encoder": ENCODER, "bank": BANK, "samples": SAMPLES},
        {"encoder": SIZES, "bank": [None, MIXTURE], "samples": [None, ROWS, replace(SAMPLES, inputs=ROWS[:, :3])]},
    ),
    (
        gradients.learned_population_gradient,
        {"encoder": ENCODER, "decoders": DECODERS, "bank": BANK, "weights": torch.ones(12, dtype=torch.float64)},
        {"encoder": SIZES, "decoders": SIZES, "bank": [None, MIXTURE], "weights": SIZES},
    ),
    (
        gradients.learned_sampled_gradient,
        {"encoder": ENCODER, "decoders": DECODERS, "bank": BANK, "samples": SAMPLES},
        {"encoder": SIZES, "decoders": SIZES, "bank": [None, MIXTURE], "samples": [None, ROWS]},
    ),
    (gradients.interference, {"encoder": ENCODER, "common": MOMENT}, {"encoder": ENCODERS, "common": GRAMS}),
    (
        dynamics.descended,
        {"encoder": ENCODER, "moments": [MOMENT], "step_size": 0.1},
        {"encoder": ENCODERS, "moments": [None, *([gram] for gram in GRAMS)], "step_size": [*NUMBER, 0.0]},
    ),
    (
        dynamics.flowed,
        {"encoder": ENCODER, "moments": [(MOMENT, 1.0)], "longest_step": 0.1},
        {"encoder": ENCODERS, "moments": [None, [MOMENT], *([(gram, 1.0)] for gram in GRAMS), [(MOMENT, -1.0)]]}
        | {"longest_step": [*NUMBER, 0.0]},
    ),
    (dynamics.flow_span, {"encoder": ENCODER, "integral": MOMENT}, {"encoder": ENCODERS, "integral": GRAMS}),
    (
        dynamics.rotated,
        {"encoder": torch.eye(2, 16), "slot": 0, "direction": torch.eye(16)[5], "angle": 0.1},
        {
            "encoder": ENCODERS,
            "slot": [value for value in [*WHOLE, 2, -3] if value != -1.0],
            "direction": [*SIZES, torch.eye(16)[0], torch.ones(16)],
        }
        | {"angle": NEVER},
    ),
    (MassStream, {"bank": BANK, "bursts": None}, {"bank": [None, MIXTURE], "bursts": [3, Bursts(4, (2,))]}),
    (MassStream(BANK, None).moved, {"step": 0, "encoder": ENCODER}, {"encoder": SIZES}),
    (
        SampleStream,
        {"bank": BANK, "bursts": None, "batch": 3, "seeds": (0,)},
        {"bank": [None, MIXTURE], "bursts": [3, Bursts(4, (2,))], "batch": [*WHOLE, 0], "seeds": [*WHOLES, ()]},
    ),
    (RUN.troughs, {}, {"periods": [*WHOLE, 0]}),
    (
        metrics.feature_overlap,
        {"mixture": MIXTURE, "captured": np.zeros(12), "width": 2},
        {"mixture": [*MIXTURES, TANGLED]},
    ),
    (
        metrics.excess_loss,
        {"mixture": TANGLED, "captured": np.zeros(12), "width": 2},
        {"mixture": MIXTURES, "captured": [*NUMBERS, np.zeros(3), np.full(12, 7.0)], "width": [*WHOLE, 0]},
    ),
    (
        train,
        {"mixture": TANGLED, "width": 2, "recipe": Recipe(steps=1)},
        {"mixture": MIXTURES, "recipe": [None, {}], "bursts": [3]},
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
        {"mixture": MIXTURE, "width": 2, "recipe": Recipe(steps=1), "start": torch.eye(2, 16).expand(3, 2, 16)},
        {"width": [*WHOLE, 0, 99], "seeds": [*WHOLES, ()], "start": [*ENCODERS[1:], torch.eye(2, 16)]},
    ),
]


@pytest.mark.usefixtures("unchecked")
@rows(PUBLIC)
def test_wrong_tensors_are_one_line_and_never_a_result(function, right, wrong) -> None:
    check_refused(function, right, wrong)


def test_no_public_function_is_left_out() -> None:
    made = {"Interference", "Samples", "Troughs"}  # by the functions of these modules
    assert untested(PUBLIC, (features, gradients, dynamics, metrics, streams, training, tensors)) == made
