"""What an encoder holds of each task, measured in float64 regardless of its training precision."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, numbers, whole
from olmo_inject.theory.forms.closed_forms import mixture_losses
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.tensors import real


def captures(mixture: Mixture, encoder: Float[Tensor, "*batch N d"]) -> Float[np.ndarray, "*batch F"]:
    """|U^T b|^2 of every feature direction, 0 to 1, for the span of the encoder's rows.

    Raises:
        UserError: there are no rows of d finite numbers, or more of them than d.
    """
    kind("mixture", mixture, Mixture)
    real("encoder", encoder, None, mixture.dimension)
    bank = FeatureBank(mixture, torch.float64, encoder.device)
    spanned = orthonormalised(encoder.detach().to(torch.float64))
    return bank.project(spanned).square().sum(-2).cpu().numpy()


def losses_from_captures(mixture: Mixture, captured: Float[np.ndarray, "*batch F"]) -> Float[np.ndarray, "*batch K"]:
    """L_k = sum_j lambda_kj (1 - capture): each task's loss with its optimal decoder.

    Raises:
        UserError: there is not one capture from 0 to 1 for every feature.
    """
    captured = _checked(mixture, captured)
    return np.add.reduceat(mixture.eigenvalues * (1 - captured), mixture.starts[:-1], axis=-1)


def signals_from_captures(mixture: Mixture, captured: Float[np.ndarray, "*batch F"]) -> Float[np.ndarray, "*batch K"]:
    """s_k = tr(P C_k) / tr C_k: the share of each task's variance that the encoder holds.

    Raises:
        UserError: there is not one capture from 0 to 1 for every feature.
    """
    captured = _checked(mixture, captured)
    return np.add.reduceat(mixture.eigenvalues * captured, mixture.starts[:-1], axis=-1) / mixture.traces


def normalised_signal(
    signal: float | Float[np.ndarray, "*batch"], width: int, dimension: int
) -> Float[np.ndarray, "*batch"]:
    """The signal on a scale where a random encoder has 0 and a complete one 1. Not clipped.

    An optimised encoder may be below 0: its latents then hold only other tasks. At N = d every encoder is complete, and
    1 is returned. The paper normalises signals in this way in Fig. 3; the form is inferred.

    Args:
        signal: s, of one or more encoders.
        width: N.
        dimension: d.

    Raises:
        UserError: a signal is not finite, or the width is not from 1 to d.
    """
    dimension = whole("dimension", dimension, 1)
    width = whole("width", width, 1, dimension)
    signal = numbers("signal", signal)
    if width == dimension:
        return np.ones_like(signal)
    return np.asarray((signal - width / dimension) / (1 - width / dimension))


def feature_overlap(
    mixture: TaskMixture, captured: Float[np.ndarray, "*batch F"], width: int
) -> Float[np.ndarray, "*batch"]:
    """Share of the N features of largest utility that are among the N most captured; 1 if the sets are equal.

    Args:
        mixture: tasks without overlap, since with shared slots no set of features is the best one.
        captured: of every feature, as `captures` gives it.
        width: N.

    Raises:
        UserError: the tasks overlap, or a size does not fit.
    """
    kind("mixture", mixture, TaskMixture)  # overlapping tasks share slots: no set of features is the best one
    captured = _checked(mixture, captured)
    count = min(whole("width", width, 1, mixture.dimension), mixture.features)
    best = mixture.learning_order[:count]
    held = np.argsort(-captured, axis=-1, kind="stable")[..., :count]
    return np.asarray(np.isin(held, best).mean(-1))


def excess_loss(mixture: Mixture, captured: Float[np.ndarray, "*batch F"], width: int) -> Float[np.ndarray, "*batch"]:
    """L / L* - 1, where L* is the loss of the best encoder of this width; L itself if L* is zero.

    L* is zero if there are at least as many latents as features.

    Args:
        mixture: the tasks.
        captured: of every feature, as `captures` gives it.
        width: N.

    Raises:
        UserError: a size does not fit, or a capture is not from 0 to 1.
    """
    captured = _checked(mixture, captured)
    loss = (mixture.utilities * (1 - captured)).sum(-1)
    best = mixture_losses(mixture, [width])[0]
    return np.asarray(loss / best - 1 if best > 0 else loss)


def haar_moments(spectrum: Float[np.ndarray, " m"], width: int, dimension: int) -> tuple[float, float]:
    """Mean and variance of a task's signal under a uniformly random encoder.

    Args:
        spectrum: the task's eigenvalues.
        width: N.
        dimension: d.

    Raises:
        UserError: the spectrum is longer than d or all zero, or the width is not from 1 to d.
    """
    dimension = whole("dimension", dimension, 2)
    width = whole("width", width, 1, dimension)
    spectrum = numbers("spectrum", spectrum, at_least=0)
    if spectrum.ndim != 1 or not 1 <= len(spectrum) <= dimension or not spectrum.any():
        raise UserError(f"spectrum must be a list of 1 to {dimension} numbers that are not all zero")
    concentration = (spectrum**2).sum() / spectrum.sum() ** 2 - 1 / dimension
    scale = 2 * width * (dimension - width) / (dimension * (dimension - 1) * (dimension + 2))
    return width / dimension, scale * concentration


def _checked(mixture: Mixture, captured: Float[np.ndarray, "*batch F"]) -> Float[np.ndarray, "*batch F"]:
    kind("mixture", mixture, Mixture)
    values = numbers("captures", captured, at_least=-1e-5, at_most=1 + 1e-5)  # 0 to 1 but for rounding
    if not values.ndim or values.shape[-1] != mixture.features:
        raise UserError(f"captures must have one number for each of {mixture.features} features, got {values.shape}")
    return values
