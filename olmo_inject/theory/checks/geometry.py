"""Checks 4, 5 and 6: gradients, the interference bound, and the stability of the common solution."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised, random_encoder
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training import gradients
from olmo_inject.theory.training.dynamics import descended, rotated
from olmo_inject.theory.training.streams import SampleStream

RATIOS = (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)


def gradient_formulas(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 4."""
    mixture = TaskMixture.power_law(5, 4, null_directions=10)
    bank = FeatureBank(mixture, torch.float64, "cpu")
    moment = torch.tensor(mixture.gram())
    worst = 0.0
    for width in (1, 3, 8, 20):
        encoder = random_encoder(width, mixture.dimension, seed=width)
        free = encoder.clone().requires_grad_()
        inverse = torch.linalg.inv(free @ free.T)
        (moment.trace() - (inverse @ free @ moment @ free.T).trace()).backward()
        assert free.grad is not None
        difference = gradients.population_gradient(encoder, encoder @ moment) - free.grad
        worst = max(worst, float(difference.abs().max()))
    yield AcceptanceMeasure(4, "gradient with optimal decoders against autograd", worst, "<=", 1e-12)

    encoder = random_encoder(7, mixture.dimension, seed=0) * 1.3
    decoders = random_encoder(7, mixture.features, seed=1).T.contiguous()
    weights = bank.frequencies[bank.task_of]
    free, heads = encoder.clone().requires_grad_(), decoders.clone().requires_grad_()
    targets = bank.eigenvalues.sqrt()[:, None] * torch.tensor(mixture.directions.T)
    (weights[:, None] * (targets - heads @ free).square()).sum().backward()
    assert free.grad is not None
    assert heads.grad is not None
    by_encoder, by_decoder = gradients.learned_population_gradient(encoder, decoders, bank, weights)
    worst = max(float((by_encoder - free.grad).abs().max()), float((by_decoder - heads.grad).abs().max()))
    yield AcceptanceMeasure(4, "gradients of learned decoders against autograd", worst, "<=", 1e-12)

    encoder = random_encoder(6, mixture.dimension, seed=2)
    exact = gradients.population_gradient(encoder, encoder @ moment)
    errors = []
    for batch in (256, 1024, 4096, 16384):
        samples = SampleStream(bank, None, batch, seeds=range(effort.choose(64, 12))).draw(0)
        estimates = gradients.sampled_gradient(encoder.expand(len(samples.inputs), 1, -1, -1), bank, samples)
        errors.append(float((estimates - exact).square().sum((-2, -1)).mean().sqrt() / exact.norm()))
    ratios = [later / earlier for earlier, later in pairwise(errors)]
    off = max(abs(ratio / 0.5 - 1) for ratio in ratios)
    yield AcceptanceMeasure(4, "sampled gradient: error halves per 4x samples, off by", off, "<=", 0.2)


def interference_bound(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 5: Theorem 4 over random, nearly optimal and rotated encoders of several widths."""
    mixture = TaskMixture.power_law(4, 4, null_directions=6)
    common = torch.tensor(mixture.gram([0, 1, 2]))
    vectors = torch.linalg.eigh(common).eigenvectors.flip(-1).T
    generator = torch.Generator().manual_seed(3)
    draws, violations, total = effort.choose(1500, 1000), 0, 0
    distances = 10 ** -torch.linspace(0.5, 6, draws, dtype=torch.float64)
    for width in (1, 2, 5, 11, 16):
        noise = torch.randn(draws, width, mixture.dimension, generator=generator, dtype=torch.float64)
        near = vectors[:width] + distances[:, None, None] * noise
        for encoders in (orthonormalised(noise), orthonormalised(near)):
            interference = gradients.interference(encoders, common)
            for bound in (interference.bound, interference.swapped_bound, interference.loose_bound):
                violations += int((interference.gradient > bound + 1e-12).sum())
            total += draws
    yield AcceptanceMeasure(5, f"bound violations in {total} encoders x 3 bounds", violations, "==", 0)
    yield AcceptanceMeasure(5, "encoders tried", total, ">=", 10_000)

    rank = 12
    complete = rotated(vectors[:rank], 0, vectors[-1], 0.01)
    interference = gradients.interference(complete, common)
    yield AcceptanceMeasure(
        5, "tightness, one slot rotated by .01", float(interference.gradient / interference.bound), ">=", 0.9999
    )


def stability(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 6: curvature towards a rare direction, and whether plain descent lets it grow."""
    mixture = TaskMixture.power_law(5, 4, null_directions=4, basis="axis")
    common = torch.tensor(np.diag(np.append(mixture.utilities, np.zeros(mixture.null_directions))))
    order = torch.tensor(mixture.learning_order.copy())
    identity = torch.eye(mixture.dimension, dtype=torch.float64)
    rare = identity[-1]
    step_size = 0.2 / float(mixture.utilities.max())
    curvature_error, wrong_signs, drift = 0.0, 0, 0.0
    for width in range(1, mixture.features + 1):
        best = identity[order[:width]]
        eigenvalue = float(mixture.utilities[mixture.learning_order[width - 1]])
        for ratio in (*RATIOS, 1.0):
            moment = common + ratio * eigenvalue * torch.outer(rare, rare)
            if ratio == 1.0:
                drift = max(drift, abs(_growth(best, rare, moment, step_size) - 1))
                continue
            expected = 2 * eigenvalue * (1 - ratio)
            measured = _curvature(best, rare, moment)
            curvature_error = max(curvature_error, abs(measured / expected - 1))
            wrong_signs += (_growth(best, rare, moment, step_size) > 1) != (ratio > 1)
    cases = mixture.features * len(RATIOS)
    yield AcceptanceMeasure(6, "Hessian by finite differences, relative", curvature_error, "<=", 1e-5)
    yield AcceptanceMeasure(6, f"stability sign wrong, {cases} cases, every N", wrong_signs, "==", 0)
    yield AcceptanceMeasure(6, "growth at a tie, from 1", drift, "<=", 1e-8)


def _growth(best: Tensor, rare: Tensor, moment: Tensor, step_size: float) -> float:
    angle = 1e-5
    after = descended(rotated(best, len(best) - 1, rare, angle), [moment] * 5, step_size)
    return float((after @ rare).norm()) / np.sin(angle)


def _curvature(best: Tensor, rare: Tensor, moment: Tensor) -> float:
    step = 0.02

    def loss(angle: float) -> Tensor:
        turned = rotated(best, len(best) - 1, rare, angle)
        return -((turned @ moment) * turned).sum()

    fourth_order = -loss(2 * step) + 16 * loss(step) - 30 * loss(0) + 16 * loss(-step) - loss(-2 * step)
    return float(fourth_order) / (12 * step**2)
