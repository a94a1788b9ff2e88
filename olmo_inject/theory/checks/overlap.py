"""Checks 16 to 18: overlapping tasks, their optimum, gradients and gaps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.forms import closed_forms, overlap
from olmo_inject.theory.mixtures.features import orthonormalised, random_encoder
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import flow_span, flowed
from olmo_inject.theory.training.streams import Bursts
from olmo_inject.theory.training.train import Recipe, train


def overlapping_optimum(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 16: golden values without overlap; dense matrices, brackets and training with it."""
    mixture = TaskMixture.power_law()
    same = OverlappingMixture.of(mixture)
    widths = range(1, mixture.features + 1)
    worst = max(
        float(np.abs(same.mixture_losses(widths) - closed_forms.mixture_losses(mixture, widths)).max()),
        float(np.abs(same.task_losses(widths) - closed_forms.task_losses(mixture, widths)).max()),
    )
    yield AcceptanceMeasure(16, "orthogonal: losses against TaskMixture's, every N", worst, "<=", 1e-12)
    firsts = [same.width_to(task, float(mixture.spectra[task][0])) for task in (12, 19)]
    yield AcceptanceMeasure(16, "orthogonal: critical widths wrong", int(firsts != [23, 40]), "==", 0)

    dense, low, monotone = 0.0, 0.0, 0.0
    for seed in range(effort.choose(50, 15)):
        problem = random_overlap(seed)
        values, vectors = np.linalg.eigh(problem.gram())
        vectors = vectors[:, ::-1]
        count = min(problem.features, problem.dimension)
        dense = max(dense, float(np.abs(values[::-1][:count] - problem.slots[:count]).max()))
        every = np.arange(1, count + 1)
        signals = problem.task_signals(every)
        captured = np.cumsum((problem.directions.T @ vectors) ** 2, axis=1)
        held = np.add.reduceat(problem.eigenvalues[:, None] * captured, problem.starts[:-1], axis=0)
        edges = np.abs(np.diff(np.append(values[::-1], -1)))[:count] > 1e-6  # a tie has no one optimum
        against = (held[:, :count] / problem.traces[:, None]).T
        dense = max(dense, float(np.abs(signals - against)[edges].max()))
        lower, upper = problem.loss_bracket(every)
        losses = problem.mixture_losses(every)
        low = max(low, float((lower - losses).max()), float((losses - upper).max()))
        monotone = max(monotone, float(-np.diff(signals, axis=0).min()))
    yield AcceptanceMeasure(16, "slots and signals against dense matrices", dense, "<=", 1e-12)
    yield AcceptanceMeasure(16, "loss outside its bracket by", low, "<=", 1e-12)
    yield AcceptanceMeasure(16, "signal falls with width by", monotone, "<=", 1e-12)
    problem, recipe = random_overlap(3), Recipe(steps=effort.choose(3000, 800))
    excess = max(float(train(problem, width, recipe, (0,)).excess.max()) for width in (3, 6))
    yield AcceptanceMeasure(16, "trained encoders: excess loss", excess, "<=", 1e-6)


def overlapping_gradients(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 17: inner products, cosines at random and at the optimum."""
    worst, highest, mean, rest, opposed = 0.0, -1.0, 0.0, 0.0, 0.0
    for seed in range(6):
        problem = random_overlap(seed)
        encoder = random_encoder(3, problem.dimension, seed)
        by_autograd = []
        for k in range(problem.tasks):
            free = encoder.clone().requires_grad_()
            gram = torch.tensor(problem.gram([k]) / problem.frequencies[k])
            inverse = torch.linalg.inv(free @ free.T)
            (gram.trace() - (inverse @ free @ gram @ free.T).trace()).backward()
            assert free.grad is not None
            by_autograd.append(free.grad.flatten())
        exact = torch.stack(by_autograd)
        products = overlap.gradient_products(problem, encoder.numpy())
        worst = max(worst, float(np.abs((exact @ exact.T).numpy() - products).max()))
        for width in (1, 3, 6):
            best = problem.encoder(width)
            weighted = problem.frequencies[:, None, None] * overlap.task_gradients(problem, best)
            rare, others = weighted[-1].ravel(), weighted[:-1].sum(0).ravel()
            opposed = max(opposed, abs(1 + rare @ others / np.linalg.norm(rare) / np.linalg.norm(others)))
        apart = OverlappingMixture.of(TaskMixture.power_law(4, 3, null_directions=4, basis_seed=seed))
        cosines = overlap.gradient_cosines(apart, random_encoder(4, apart.dimension, seed).numpy())
        highest = max(highest, float((cosines - 2 * np.eye(apart.tasks)).max()))
        rest = max(rest, float(overlap.gradient_norms(apart, 4).max()))
    yield AcceptanceMeasure(17, "inner products against autograd", worst, "<=", 1e-12)
    yield AcceptanceMeasure(17, "orthogonal: largest cosine", highest, "<=", 1e-12)
    yield AcceptanceMeasure(17, "at the optimum, one task against the rest: 1 + cos", opposed, "<=", 1e-10)
    yield AcceptanceMeasure(17, "commuting: gradients at the optimum", rest, "<=", 1e-12)

    problem, draws = random_overlap(1), effort.choose(40_000, 4_000)
    generator = torch.Generator().manual_seed(17)
    shape = (draws, 3, problem.dimension)
    encoders = orthonormalised(torch.randn(shape, generator=generator, dtype=torch.float64)).numpy()
    captured = encoders @ problem.directions
    one, two = (slice(problem.starts[k], problem.starts[k + 1]) for k in (0, 1))
    cross = (captured[:, :, one] * problem.eigenvalues[one]) @ (
        problem.directions[:, one].T @ problem.directions[:, two]
    )
    transfer = (cross * captured[:, :, two] * problem.eigenvalues[two]).sum((1, 2))
    held = np.einsum("nif,nig->nfg", captured[:, :, one], captured[:, :, two]) ** 2
    compete = np.einsum("nfg,f,g->n", held, problem.eigenvalues[one], problem.eigenvalues[two])
    products = 4 * (transfer - compete)
    size, width = problem.dimension, 3
    scale = width * (size - width) / (size * (size - 1) * (size + 2))
    grams = [problem.gram([k]) / problem.frequencies[k] for k in (0, 1)]
    expected = 4 * scale * (size * np.trace(grams[0] @ grams[1]) - np.trace(grams[0]) * np.trace(grams[1]))
    mean = abs(products.mean() - expected) / (products.std() / np.sqrt(draws))
    yield AcceptanceMeasure(17, f"mean product at random, {draws} draws, standard errors off", mean, "<=", 3)


def overlapping_gaps(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 18: the flow's order, its cycles and floors, and a floor under Adam."""
    problem = random_overlap(2)
    rare = problem.tasks - 1
    common, burst = torch.tensor(problem.gram(range(rare))), torch.tensor(problem.gram([rare]))
    pieces = [(common, 3.0), (common + 9 * burst, 0.4), (burst, 1.0), (common + burst, 2.0)]
    start = random_encoder(3, problem.dimension, 5)
    ordered = start
    for moment, time in pieces:
        ordered = flow_span(ordered, moment * time)
    stepped = flowed(start, pieces, longest_step=0.01)
    apart = float((ordered.T @ ordered - stepped.T @ stepped).norm())
    yield AcceptanceMeasure(18, "flow through four pieces against Runge-Kutta", apart, "<=", 1e-8)

    same = OverlappingMixture.of(TaskMixture.power_law(4, 3, null_directions=4))
    step = 0.02 / float(same.slots[0])
    troughs = [overlap.flow_cycle(same, 3, gap, 9, step).trough for gap in (1, 10, 100, 400)]
    yield AcceptanceMeasure(18, "commuting: spread of troughs over T", max(troughs) - min(troughs), "<=", 1e-10)

    off, rise, below = 0.0, 0.0, 0.0
    gaps = (1, 3, 10, 30, 100) if effort.quick else (1, 3, 10, 30, 100, 300)
    for seed in range(effort.choose(12, 3)):
        problem = random_overlap(seed)
        for width in (2, 4):
            small = 0.05 / float(problem.slots[0])
            cycle = overlap.flow_cycle(problem, rare, 10, width, small / 10)
            if cycle.swing > 1e-6:
                off = max(off, abs((cycle.peak - cycle.trough) / cycle.swing - 1))
            floor = overlap.floor(problem, rare, width)
            lows = [overlap.flow_cycle(problem, rare, gap, width, small).trough for gap in gaps]
            rise = max(rise, float(np.diff(lows).max()))
            below = max(below, floor - min(lows))
    yield AcceptanceMeasure(18, "swing against its closed form, 2 eta T mu_1 = .1", off, "<=", 0.01)
    yield AcceptanceMeasure(18, "rise of the trough with T", rise, "<=", 0.002)
    yield AcceptanceMeasure(18, "trough below the floor by", below, "<=", 0.005)

    problem = shared_slot(0.3)
    gap = effort.choose(3000, 600)
    recipe = Recipe(steps=2 * gap, learning_rate=1e-3, schedule="constant")
    trough = float(train(problem, 6, recipe, (0,), Bursts(1, (gap,))).troughs().median[0, 0])
    held = overlap.floor(problem, 1, 6)
    yield AcceptanceMeasure(
        18, f"Adam at T={gap}, overlap with the first slot: trough from the floor", abs(trough - held), "<=", 0.02
    )


def random_overlap(seed: int, tasks: int = 4, features: int = 3, dimension: int = 9) -> OverlappingMixture:
    """Tasks of falling frequency in random directions of few dimensions.

    Args:
        seed: of the directions.
        tasks: K.
        features: of every task.
        dimension: d, at least `features`.

    Raises:
        UserError: a number is impossible.
    """
    return OverlappingMixture.superposed(TaskMixture.power_law(tasks, features, 1.2, 1.1), dimension, seed)


def shared_slot(share: float, dimension: int = 40, commons: int = 10, utility: float = 0.08) -> OverlappingMixture:
    """Common directions of utility 1, .8, ... and a rank-one task, a share of which lies in the first of them.

    Args:
        share: of the rare task in the first common direction, 0 to 1.
        dimension: d, above `commons`.
        commons: how many common directions.
        utility: nu, of the rare task.

    Raises:
        UserError: a number is impossible.
    """
    values = 0.8 ** np.arange(commons)
    total = values.sum() + utility
    rare = np.zeros((dimension, 1))
    rare[0], rare[commons] = np.sqrt(share), np.sqrt(1 - share)
    # Frequencies such that pi lambda is as asked, with unit spectra for the rare task.
    shares = np.array([values.sum() / total, utility / total])
    directions = np.concatenate([np.eye(dimension, commons), rare], axis=1)
    return OverlappingMixture(shares, (values / shares[0], np.array([utility / shares[1]])), directions)
