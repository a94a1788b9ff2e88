"""Checks 1, 2, 3 and 7: scaling laws, the loss, its closed forms, and the signal of a random encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.forms import closed_forms, gaps
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised, random_encoder
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw
from olmo_inject.theory.training import metrics

LAWS = [
    ScalingLaw(0.0, 10.0, 20.0, 0.46, 0.51),
    ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28),
    ScalingLaw(0.5, 3.0, 1000.0, 0.2, 0.6),
]


def scaling_laws(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 1."""
    size_errors, loss_errors = [], []
    for law in LAWS:
        for compute in (1e12, 1e18):
            spent = compute / 6

            def loss(log_size: float, law: ScalingLaw = law, spent: float = spent) -> float:
                size = np.exp(log_size)
                return law.loss(size, spent / size) - law.irreducible

            size = law.optimal_size(compute)
            # The whole range, so that the search does not know the answer.
            bounds = (0.0, np.log(spent))
            least: Any = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
            size_errors.append(abs(np.exp(least.x) / size - 1))
            predicted = law.frontier().loss(size) - law.irreducible
            loss_errors.append(abs(least.fun / predicted - 1))
    yield AcceptanceMeasure(1, "N_opt against minimisation, relative", max(size_errors), "<=", 1e-5)
    yield AcceptanceMeasure(1, "L_C against minimisation, relative", max(loss_errors), "<=", 1e-5)

    wrong = 0
    for law in LAWS:
        own = PowerLaw(law.irreducible, 2 * law.size_coefficient, 0.74 * law.alpha)
        for frontier in (law.frontier(), own):
            for margin in (0.0, 0.01):
                regimes, large = Regimes(law, frontier), effort.choose(3000, 600)
                small = [n for n in range(1, large + 1) if regimes.needs_size(n, large, margin)]
                closed = math.ceil(regimes.small_limit(large, margin)) - 1
                wrong += {closed, regimes.largest_small(large, margin)} != {max(small, default=0)}
    yield AcceptanceMeasure(1, "N_s* against brute force, 12 cases, wrong", wrong, "==", 0)


def teacher_loss(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 2: sampled loss with the closed-form decoder, for the right and the wrong reading of C_k."""
    count, chunks = 400_000, 20
    mixture = TaskMixture.power_law(4, 5, null_directions=12)
    generator = torch.Generator().manual_seed(0)

    def normal(columns: int) -> torch.Tensor:
        return torch.randn(count // chunks, columns, generator=generator, dtype=torch.float64)

    bank = FeatureBank(mixture, torch.float64, "cpu")
    students = {task: random_encoder(width, mixture.dimension, width) for task, width in enumerate((7, 7, 12, 20))}
    right, wrong = dict.fromkeys(students, 0.0), dict.fromkeys(students, 0.0)
    for chunk in range(chunks):
        inputs = normal(mixture.dimension)
        for task, encoder in students.items():
            own = bank.only(task)
            roots = own.eigenvalues.sqrt()
            answers = inputs @ encoder.T @ (own.project(encoder) * roots)
            right[task] += float((own.project(inputs) * roots - answers).square().sum()) / count
            if effort.quick and chunk:
                continue  # the other reading is wrong by far, as few samples show
            # If C_k were the inputs' covariance: x in the span of B_k, and y its coordinates.
            coordinates = normal(len(roots)) * roots
            latents = own.lift(coordinates) @ encoder.T
            fitted = latents @ (torch.linalg.pinv(latents) @ coordinates)
            wrong[task] += float((coordinates - fitted).square().sum()) / (len(inputs) if effort.quick else count)
    losses = {
        task: metrics.losses_from_captures(mixture, metrics.captures(mixture, encoder))[task]
        for task, encoder in students.items()
    }
    off = max(abs(right[task] / loss - 1) for task, loss in losses.items())
    yield AcceptanceMeasure(2, "sampled loss against tr((I-P)C), relative", off, "<=", 0.01)
    off = min(abs(wrong[task] / loss - 1) for task, loss in losses.items())
    yield AcceptanceMeasure(2, "the same if C were the input covariance (must be wrong)", off, ">=", 0.5)


def golden_values(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 3: closed forms of the default mixture against numbers computed elsewhere."""
    mixture = TaskMixture.power_law()
    spectrum = np.linalg.eigvalsh(mixture.gram())[::-1][: mixture.features]
    ordered = mixture.utilities[mixture.learning_order]
    yield AcceptanceMeasure(3, "eig(M) against sorted utilities", np.abs(spectrum - ordered).max(), "<=", 1e-12)

    common = closed_forms.frequent_tasks(mixture)
    numbers = [
        mixture.frequencies[0] - 0.5313906545,
        mixture.frequencies[19] - 3.2633444734e-3,
        mixture.eigenvalues[0] - 0.7161912763,
        mixture.frequencies[common].sum() - 0.906536,
    ]
    losses = closed_forms.mixture_losses(mixture, [1, 16, 32, 64])
    golden = np.array([0.61942265, 0.15270063, 0.07439622, 0.02298656])
    yield AcceptanceMeasure(3, "L* at N = 1, 16, 32, 64 against golden", np.abs(losses - golden).max(), "<=", 1e-7)
    yield AcceptanceMeasure(3, "frequencies and spectrum against golden", np.abs(numbers[:3]).max(), "<=", 1e-7)
    yield AcceptanceMeasure(3, "share of the frequent set against golden", abs(numbers[3]), "<=", 5e-7)

    step_size = 0.1 / mixture.utilities.max()
    against_all = closed_forms.critical_widths(mixture)
    against_common = closed_forms.critical_widths(mixture, common)
    thirteen, twenty = mixture.starts[12], mixture.starts[19]
    integers = {
        "|F|": (len(common), 7),
        "N_eps 5%": (closed_forms.residual_width(mixture, 0.05, common), 21),
        "N_eps 1%": (closed_forms.residual_width(mixture, 0.01, common), 41),
        "N_min": (closed_forms.minimal_widths(mixture, [1, 2, 3]).tolist(), [40, 77, 108]),
        "n(32)": (
            closed_forms.retained_features(mixture, [32])[0].tolist(),
            [8, 4, 3, 2, 2, 2] + [1] * 11 + [0] * 3,
        ),
        "N_crit": ([against_all[thirteen], against_all[twenty]], [23, 40]),
        "N_crit against F": ([against_common[thirteen], against_common[twenty]], [18, 28]),
        "N_crit(T)": (
            [gaps.gap_critical_widths(mixture, gap, step_size)[thirteen] for gap in (1, 10, 100, 300, 1000)],
            [23, 24, 25, 29, 39],
        ),
    }
    yield AcceptanceMeasure(3, "integers against golden, wrong", sum(a != b for a, b in integers.values()), "==", 0)

    widths = range(1, mixture.dimension + 1)
    weighted = closed_forms.task_losses(mixture, widths) @ mixture.frequencies
    gap = np.abs(weighted - closed_forms.mixture_losses(mixture, widths)).max()
    yield AcceptanceMeasure(3, "sum of pi_k L_k against L*, every N", gap, "<=", 1e-12)


def random_encoders(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 7: the signal of Haar-random encoders, and of one that holds the task."""
    draws, dimension = effort.choose(20_000, 5_000), 40
    mixture = TaskMixture.power_law(3, 6, null_directions=dimension - 18)
    bank = FeatureBank(mixture, torch.float64, "cpu").only(1)
    share = bank.eigenvalues / bank.eigenvalues.sum()
    generator = torch.Generator().manual_seed(1)
    means, variances = [], []
    for width in (4, 12, 30):
        encoders = orthonormalised(torch.randn(draws, width, dimension, generator=generator, dtype=torch.float64))
        signals = (bank.project(encoders).square() * share).sum((-2, -1)).numpy()
        mean, variance = metrics.haar_moments(mixture.spectra[1], width, dimension)
        means.append(abs(signals.mean() / mean - 1))
        variances.append(abs(signals.var() / variance - 1))
    yield AcceptanceMeasure(7, f"Haar mean of s, {draws} draws x 3 widths, relative", max(means), "<=", 0.01)
    yield AcceptanceMeasure(7, "Haar variance of s, relative", max(variances), "<=", 0.05)

    chosen = mixture.directions[:, mixture.starts[1] : mixture.starts[2]].T
    captured = metrics.captures(mixture, torch.tensor(chosen))
    complete = metrics.signals_from_captures(mixture, captured)[1]
    normalised = metrics.normalised_signal(complete, len(chosen), dimension)
    yield AcceptanceMeasure(7, "normalised s of a complete encoder, from 1", abs(float(normalised) - 1), "<=", 1e-12)
