"""Gradients of the mixture loss: in expectation and from samples, with optimal and with learned decoders.

No factor 1/2: the loss is E |y - D U^T x|^2. Encoders have a row per latent, so U here is the paper's U^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.theory.arguments import kind
from olmo_inject.theory.mixtures.features import FeatureBank
from olmo_inject.theory.tensors import gram_matrix, orthonormal, sized

Encoder = Float[Tensor, "*#batch N d"]


@dataclass(frozen=True)
class Samples:
    """Inputs with their tasks and weights in the batch; sums are divided by a fixed batch size.

    Args:
        inputs: x, shared by encoders of one seed.
        asked: 1 for the features of the sample's task, 0 for others.
        weights: weight of each sample; 0 removes it for one encoder.
        batch: B, the fixed divisor.
    """

    inputs: Float[Tensor, "*#batch n d"]
    asked: Float[Tensor, "*#batch n F"]
    weights: Float[Tensor, "*#batch n"]
    batch: int


def tangent(encoder: Encoder, rows: Float[Tensor, "*#batch n d"]) -> Float[Tensor, "*#batch n d"]:
    """The part of `rows` outside the encoder's span.

    Raises:
        UserError: a size does not fit.
    """
    sized("rows", rows, None, sized("encoder", encoder, None, None).shape[-1])
    return rows - (rows @ encoder.mT) @ encoder


def population_gradient(encoder: Encoder, moved: Encoder) -> Encoder:
    """-2 (I - P) M U with optimal decoders; `moved` is the encoder times M.

    Euclidean, canonical and Grassmann gradients coincide, as U^T C_k U is symmetric.

    Raises:
        UserError: a size does not fit.
    """
    sized("moved", moved, *sized("encoder", encoder, None, None).shape[-2:])
    held = (moved @ encoder.mT) @ encoder
    return held.sub_(moved).mul_(2)


def sampled_gradient(encoder: Encoder, bank: FeatureBank, samples: Samples) -> Encoder:
    """-2/B sum_i x_i x_i^T (I - P) C_k U, made tangent: unbiased for the population gradient.

    Args:
        encoder: orthonormal rows.
        bank: the features.
        samples: inputs, their tasks and weights.

    Raises:
        UserError: a size does not fit.
    """
    sized("encoder", encoder, None, _check_samples(samples, bank))
    missed = bank.project(tangent(encoder, samples.inputs))
    errors = missed * (bank.eigenvalues * samples.asked) * samples.weights[..., None]
    latents = errors @ bank.project(encoder).mT
    return tangent(encoder, (-2 / samples.batch) * (latents.mT @ samples.inputs))


def learned_population_gradient(
    encoder: Encoder,
    decoders: Float[Tensor, "*#batch F N"],
    bank: FeatureBank,
    weights: Float[Tensor, "*#batch F"],
) -> tuple[Encoder, Float[Tensor, "*#batch F N"]]:
    """Gradients of the expected loss by a free encoder and all decoders, stacked by feature.

    Args:
        encoder: W, any full-rank rows.
        decoders: D, a row per feature.
        bank: the features.
        weights: each feature's task frequency.

    Raises:
        UserError: a size does not fit.
    """
    _check_decoders(encoder, decoders, bank)
    sized("weights", weights, len(bank.eigenvalues))
    roots = bank.eigenvalues.sqrt()
    weighted = decoders * weights[..., None]
    targets = roots[:, None] * bank.project(encoder).mT
    by_decoder = 2 * weights[..., None] * (decoders @ (encoder @ encoder.mT) - targets)
    by_encoder = 2 * ((weighted.mT @ decoders) @ encoder - bank.lift(weighted.mT * roots))
    return by_encoder, by_decoder


def learned_sampled_gradient(
    encoder: Encoder, decoders: Float[Tensor, "*#batch F N"], bank: FeatureBank, samples: Samples
) -> tuple[Encoder, Float[Tensor, "*#batch F N"]]:
    """The same gradients for the loss on samples.

    Args:
        encoder: W, any full-rank rows.
        decoders: D, a row per feature.
        bank: the features.
        samples: inputs, their tasks and weights.

    Raises:
        UserError: a size does not fit.
    """
    _check_samples(samples, bank)
    _check_decoders(encoder, decoders, bank)
    latents = samples.inputs @ encoder.mT
    targets = bank.project(samples.inputs) * bank.eigenvalues.sqrt()
    errors = (latents @ decoders.mT - targets) * samples.asked * samples.weights[..., None]
    scale = 2 / samples.batch
    by_encoder = scale * ((errors @ decoders).mT @ samples.inputs)
    return by_encoder, scale * (errors.mT @ latents)


def _check_samples(samples: Samples, bank: FeatureBank) -> int:
    kind("bank", bank, FeatureBank)
    sized("inputs", kind("samples", samples, Samples).inputs, None, bank.dimension)
    return bank.dimension


def _check_decoders(encoder: Encoder, decoders: Float[Tensor, "*#batch F N"], bank: FeatureBank) -> None:
    kind("bank", bank, FeatureBank)
    width = sized("encoder", encoder, None, bank.dimension).shape[-2]
    sized("decoders", decoders, len(bank.eigenvalues), width)


@dataclass(frozen=True)
class Interference:
    """The common gradient at an encoder, and its bounds by Theorem 4.

    Args:
        gradient: |g_c|, its Frobenius norm.
        residual: R_c, the part of the common tasks that the encoder does not explain.
        bound: 2 sqrt(|U^T M_c U| R_c).
        swapped_bound: 2 sqrt(|(I - P) M_c (I - P)| tr U^T M_c U).
        loose_bound: 2 sqrt(lambda_1(M_c) R_c).
    """

    gradient: Float[Tensor, " *#batch"]
    residual: Float[Tensor, " *#batch"]
    bound: Float[Tensor, " *#batch"]
    swapped_bound: Float[Tensor, " *#batch"]
    loose_bound: Float[Tensor, " *#batch"]


def interference(encoder: Encoder, common: Float[Tensor, "d d"]) -> Interference:
    """|g_c| and its bounds 2 sqrt(|U^T M U| R), 2 sqrt(|(I-P) M (I-P)| tr U^T M U) and 2 sqrt(lambda_1 R) (Theorem 4).

    One-sided: a small residual means a weak gradient, but a weak gradient does not mean a small residual.

    Args:
        encoder: orthonormal rows.
        common: M_c, symmetric positive semidefinite.

    Raises:
        UserError: the encoder's rows are not orthonormal, or the matrix is not symmetric and positive semidefinite.
    """
    gram_matrix("common", common)
    orthonormal("encoder", encoder, common.shape[-1])
    moved = encoder @ common
    held = encoder @ moved.mT
    outside = torch.eye(common.shape[-1], dtype=common.dtype, device=common.device) - encoder.mT @ encoder
    residual = common.trace() - held.diagonal(dim1=-2, dim2=-1).sum(-1)
    residual = residual.clamp_min(0)
    missed_norm = torch.linalg.matrix_norm(outside @ common @ outside, 2)
    held_norm = torch.linalg.matrix_norm(held, 2)
    largest = torch.linalg.matrix_norm(common, 2)
    return Interference(
        gradient=torch.linalg.matrix_norm(population_gradient(encoder, moved)),
        residual=residual,
        bound=2 * (held_norm * residual).sqrt(),
        swapped_bound=2 * (missed_norm * held.diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt(),
        loose_bound=2 * (largest * residual).sqrt(),
    )
