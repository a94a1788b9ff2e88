"""Gradient flow and plain gradient steps, as far as they have closed forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import listed, number, numbers, whole
from olmo_inject.theory.mixtures.features import orthonormalised
from olmo_inject.theory.tensors import gram_matrix, orthonormal, real
from olmo_inject.theory.training.gradients import population_gradient

Encoder = Float[Tensor, "*batch N d"]
Moment = Float[Tensor, "d d"]


def descended(encoder: Encoder, moments: Iterable[Moment], step_size: float) -> Encoder:
    """Plain gradient steps with optimal decoders, one for each M.

    Args:
        encoder: orthonormal rows.
        moments: M of every step.
        step_size: eta.

    Raises:
        UserError: an argument is invalid.
    """
    orthonormal("encoder", encoder)
    step_size = number("step size", step_size, above=0)
    for moment in _checked(moments, encoder.shape[-1]):
        encoder = orthonormalised(encoder - step_size * population_gradient(encoder, encoder @ moment))
    return encoder


def flowed(encoder: Encoder, moments: Iterable[tuple[Moment, float]], longest_step: float) -> Encoder:
    """Gradient flow dU/dt = 2 (I - P) M(t) U through pieces of constant M, by fourth-order Runge-Kutta.

    Args:
        encoder: orthonormal rows.
        moments: M and how long it lasts.
        longest_step: bound on 2 |M| times the integration step.

    Raises:
        UserError: an argument is invalid.
    """
    orthonormal("encoder", encoder)
    longest_step = number("longest_step", longest_step, above=0)
    for piece in listed("moments", moments):
        if not isinstance(piece, tuple) or len(piece) != 2:
            raise UserError("moments must be pairs of a matrix and how long it lasts")
        moment, duration = piece
        gram_matrix("moment", moment, encoder.shape[-1])
        duration = number("duration", duration, at_least=0)
        steps = max(1, int(np.ceil(2 * float(torch.linalg.matrix_norm(moment, 2)) * duration / longest_step)))
        step = duration / steps

        def slope(rows: Tensor, moment: Tensor = moment) -> Tensor:
            return -population_gradient(rows, rows @ moment)

        for _ in range(steps):
            first = slope(encoder)
            second = slope(encoder + step / 2 * first)
            third = slope(encoder + step / 2 * second)
            fourth = slope(encoder + step * third)
            encoder = orthonormalised(encoder + step / 6 * (first + 2 * second + 2 * third + fourth))
    return encoder


def flow_span(encoder: Encoder, integral: Moment) -> Encoder:
    """The end of the flow for commuting M(t): the span of exp(2 int M dt) U, for any order of the data.

    Args:
        encoder: orthonormal rows, at the start.
        integral: of M(t) over time.

    Raises:
        UserError: an argument is invalid.
    """
    gram_matrix("integral", integral)
    orthonormal("encoder", encoder, integral.shape[-1])
    values, vectors = torch.linalg.eigh(integral)
    growth = torch.exp(2 * (values - values.max()))
    return orthonormalised(((encoder @ vectors) * growth) @ vectors.T)


def rotated(encoder: Encoder, slot: int, direction: Float[Tensor, " d"], angle: float) -> Encoder:
    """The encoder with one latent turned towards a direction orthogonal to all of them.

    Args:
        encoder: orthonormal rows.
        slot: which latent.
        direction: a unit vector orthogonal to all rows.
        angle: in radians.

    Raises:
        UserError: the latent and the direction are not such.
    """
    orthonormal("encoder", encoder)
    direction = real("direction", direction, encoder.shape[-1])
    orthonormal("encoder and direction", torch.cat([encoder, direction.expand_as(encoder[..., :1, :])], dim=-2))
    slot = whole("slot", slot, -encoder.shape[-2], encoder.shape[-2] - 1)
    angle = number("angle", angle)
    turned = encoder.clone()
    turned[..., slot, :] = np.cos(angle) * encoder[..., slot, :] + np.sin(angle) * direction
    return turned


def _checked(moments: Iterable[Moment], dimension: int) -> Iterator[Moment]:
    last = None
    for moment in listed("moments", moments):
        if last is None or moment is not last:  # in a gap the same matrix repeats for many steps
            last = gram_matrix("moment", moment, dimension)
        yield moment


def two_direction_flow(
    tangent: float, frequent: float, rare: float, times: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """tan(angle to the frequent direction) of a width-1 encoder in the plane, along the flow.

    Args:
        tangent: at time 0.
        frequent: lambda_f.
        rare: nu_r.
        times: t.

    Raises:
        UserError: a number is not finite, or a utility is negative.
    """
    rate = number("frequent", frequent, at_least=0) - number("rare", rare, at_least=0)
    return number("tangent", tangent) * np.exp(-2 * rate * numbers("times", times))


def two_direction_steps(
    angle: float, frequent: float, rare: Sequence[float], step_size: float
) -> Float[np.ndarray, " t"]:
    """The angle before every plain gradient step and after the last, of a width-1 encoder in the plane.

    A burst of 2 eta T nu > 1 can overshoot the rare direction: the angle then changes sign.

    Args:
        angle: towards the rare direction, below pi/2.
        frequent: lambda_f.
        rare: nu_r of every step: 0 in the gap, T nu at a burst.
        step_size: eta.

    Raises:
        UserError: a number is impossible.
    """
    angle = number("angle", angle, above=-np.pi / 2, below=np.pi / 2)
    frequent, step_size = number("frequent", frequent, at_least=0), number("step size", step_size, above=0)
    tangents = [np.tan(angle)]
    for strength in numbers("rare", rare, at_least=0).ravel():
        square = tangents[-1] ** 2
        held = (frequent + square * strength) / (1 + square)
        growth = (1 + 2 * step_size * (strength - held)) / (1 + 2 * step_size * (frequent - held))
        tangents.append(tangents[-1] * growth)
    return np.arctan(np.array(tangents))
