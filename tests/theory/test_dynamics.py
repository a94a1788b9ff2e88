import numpy as np
import pytest
import torch

from olmo_inject.theory.mixtures.features import random_encoder
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import (
    descended,
    flow_span,
    flowed,
    rotated,
    two_direction_flow,
    two_direction_steps,
)

FREQUENT, RARE = torch.eye(3, dtype=torch.float64)[:2]


def plane(frequent: float, rare: float) -> torch.Tensor:
    return torch.diag(torch.tensor([frequent, rare, 0.0], dtype=torch.float64))


def angle(encoder: torch.Tensor) -> float:
    return float(torch.atan2((encoder @ RARE).norm(), (encoder @ FREQUENT).norm()))


@pytest.mark.parametrize("rare", [0.1, 0.4, 0.7])
def test_one_latent_in_the_plane_follows_its_closed_flow(rare: float) -> None:
    start = rotated(FREQUENT[None], 0, RARE, 0.5)
    for time in (0.5, 3.0):
        expected = np.arctan(two_direction_flow(np.tan(0.5), 0.4, rare, np.array([time])))[0]
        assert angle(flowed(start, [(plane(0.4, rare), time)], 0.02)) == pytest.approx(expected, abs=1e-9)


def test_one_latent_in_the_plane_follows_its_closed_steps() -> None:
    strengths = [0.0, 0.0, 4.0, 0.0, 0.9, 0.0]
    angles = two_direction_steps(0.3, 0.4, strengths, 0.2)
    encoder = rotated(FREQUENT[None], 0, RARE, 0.3)
    for strength, expected in zip(strengths, angles[1:], strict=True):
        encoder = descended(encoder, [plane(0.4, strength)], 0.2)
        assert angle(encoder) == pytest.approx(expected, abs=1e-12)


def test_a_slot_to_spare_forgets_nothing_in_a_gap() -> None:
    # Two latents in R^3: the frequent direction, and one between the rare and the null direction.
    null = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    start = torch.cat([FREQUENT[None], rotated(null, 0, RARE, 0.2)])
    kept = descended(start, [plane(0.4, 0.0)] * 200, 0.5)
    assert float((kept @ RARE).norm()) == pytest.approx(np.sin(0.2), abs=1e-12)
    assert float((descended(kept, [plane(0.4, 0.3)] * 20, 0.5) @ RARE).norm()) > 0.5


def test_flow_ends_where_the_exponential_says_in_any_basis() -> None:
    mixture = TaskMixture(
        np.array([0.5, 0.3, 0.2]),
        (np.array([1.0, 0.2]), np.array([0.7]), np.array([2.0, 0.4])),
        null_directions=3,
        basis="random",
    )
    start = random_encoder(3, mixture.dimension, 2)
    moment = torch.tensor(mixture.gram())
    end, span = flowed(start, [(moment, 2.5)], 0.02), flow_span(start, 2.5 * moment)
    assert torch.allclose(end.T @ end, span.T @ span, atol=1e-9)
