"""Check 14: batched training against a loop over widths and seeds, and closed forms of a million features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.forms import closed_forms, gaps
from olmo_inject.theory.mixtures.features import random_encoder
from olmo_inject.theory.mixtures.task_mixture import Basis, TaskMixture
from olmo_inject.theory.training.train import Recipe, train

P = ParamSpec("P")
T = TypeVar("T")

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Speed:
    """CPU seconds of both ways to train the same encoders, and the difference of their results."""

    naive: float
    batched: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times faster batched training is."""
        return self.naive / self.batched


def speed(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 14, on one thread."""
    steps, rounds, widths, tasks = (40, 2, WIDTHS[::2], 300) if effort.quick else (150, 3, WIDTHS, 1000)
    axis = compare_training("axis", steps, rounds, widths)
    yield AcceptanceMeasure(14, "batched training, diagonal: times faster", axis.ratio, ">=", 5)
    dense = compare_training("random", steps, rounds, widths)
    yield AcceptanceMeasure(14, "batched training, dense: times faster", dense.ratio, ">=", 3)
    difference = max(axis.difference, dense.difference)
    yield AcceptanceMeasure(14, "loss of both ways, absolute difference", difference, "<=", 1e-4)
    seconds = min(closed_form_seconds(tasks) for _ in range(rounds))
    yield AcceptanceMeasure(14, f"closed forms of {tasks * 1000:,} features, seconds", seconds, "<", 1)


def compare_training(basis: Basis, steps: int, rounds: int = 3, widths: Sequence[int] = WIDTHS) -> Speed:
    """Train widths x seeds of a d=200 problem both ways, from the same encoders.

    Both ways take turns, and the fastest round of each width counts, so that other work on the machine matters little.

    Args:
        basis: "axis" makes M diagonal, "random" dense.
        steps: of every run.
        rounds: runs of each way and width.
        widths: N.

    Raises:
        UserError: a number is impossible.
    """
    mixture = TaskMixture.power_law(null_directions=0, basis=basis)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    naive, batched, difference = 0.0, 0.0, 0.0
    try:
        for width in widths:
            plain, ours = [], []
            for _ in range(rounds):
                plain.append(_timed(naive_losses, mixture, width, steps))
                ours.append(_timed(_batched_losses, mixture, width, steps))
            naive += min(seconds for seconds, _ in plain)
            batched += min(seconds for seconds, _ in ours)
            difference = max(difference, float(np.abs(np.subtract(plain[0][1], ours[0][1])).max()))
    finally:
        torch.set_num_threads(threads)
    return Speed(naive, batched, difference)


def _batched_losses(mixture: TaskMixture, width: int, steps: int) -> list[float]:
    trained = train(mixture, width, Recipe(steps=steps), SEEDS)
    return (trained.task_losses[:, 0] @ mixture.frequencies).tolist()


def naive_losses(mixture: TaskMixture, width: int, steps: int) -> list[float]:
    """The plain way: one encoder at a time, a dense M, autograd, torch's Adam and QR.

    Args:
        mixture: the tasks.
        width: N.
        steps: of Adam.

    Returns:
        The mixture's loss at the end, of every seed in `SEEDS`.

    Raises:
        UserError: the width is not from 1 to d.
    """
    moment = torch.tensor(mixture.gram(), dtype=torch.float32)
    losses = []
    for seed in SEEDS:
        encoder = random_encoder(width, mixture.dimension, seed).T.float().contiguous().requires_grad_()
        optimizer = torch.optim.Adam([encoder], lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            inverse = torch.linalg.inv(encoder.T @ encoder)
            loss = moment.trace() - (inverse @ (encoder.T @ moment @ encoder)).trace()
            loss.backward()
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                basis, triangle = torch.linalg.qr(encoder)
                encoder.copy_(basis * triangle.diagonal().sign())
        final = encoder.detach().double()
        losses.append(float(mixture.utilities.sum() - (final.T @ moment.double() @ final).trace()))
    return losses


def closed_form_seconds(tasks: int = 1000, features: int = 1000) -> float:
    """CPU seconds for all closed forms of `tasks * features` features: order, losses, widths and gaps."""

    def everything() -> None:
        mixture = TaskMixture.power_law(tasks, features, null_directions=0, basis="axis")
        widths = [10, 1000, 100_000]
        closed_forms.task_losses(mixture, widths)
        closed_forms.mixture_losses(mixture, widths)
        closed_forms.minimal_widths(mixture, [1, 2, 3])
        closed_forms.critical_widths(mixture)
        closed_forms.residual_width(mixture, 0.05, closed_forms.frequent_tasks(mixture))
        step_size = 0.1 / float(mixture.utilities.max())
        gaps.gap_critical_widths(mixture, 100, step_size)
        gaps.longest_gaps(mixture, widths, step_size)

    return _timed(everything)[0]


def _timed(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[float, T]:
    start = time.process_time()
    result = work(*args, **kwargs)
    return time.process_time() - start, result
