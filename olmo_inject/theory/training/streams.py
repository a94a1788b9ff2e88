"""The data of each training step: every task at its own rate, or one of them in bursts with the same total."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, whole, wholes
from olmo_inject.theory.mixtures.features import FeatureBank
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.tensors import sized
from olmo_inject.theory.training.gradients import Samples


@dataclass(frozen=True)
class Bursts:
    """Matched-frequency injection: one task is absent for T - 1 steps and has T times its rate in the T-th.

    The gradient is always divided by the batch size without the burst. An average over the enlarged batch would shrink
    the burst, and frequencies would not match.

    Args:
        task: the bursting task, from 0.
        gaps: T of every lane; 1 is the plain mixture.
    """

    task: int
    gaps: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", whole("task", self.task, 0))
        gaps = tuple(wholes("gap", self.gaps, 1).tolist())
        if not gaps:
            raise UserError("gaps must be one or more whole numbers of steps")
        object.__setattr__(self, "gaps", gaps)

    def check(self, mixture: Mixture, steps: int) -> None:
        """Check that a run can have these bursts.

        Raises:
            UserError: there is no such task, or a gap is not from 1 to the number of steps.
        """
        whole("task", self.task, 0, mixture.tasks - 1)
        wholes("gap", self.gaps, 1, steps)

    def now(self, step: int) -> list[int]:
        """For each lane, the task's rate in multiples of its usual rate: T at a burst, otherwise 0."""
        return [gap if step % gap == gap - 1 else 0 for gap in self.gaps]


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """Check seeds, one for each lane.

    Raises:
        UserError: there is none, or one is not a whole number of 0 or more.
    """
    checked = wholes("seed", seeds, 0).tolist()
    if not checked:
        raise UserError("seeds must be one or more whole numbers")
    return checked


def _check_stream(bank: FeatureBank, bursts: Bursts | None) -> None:
    kind("bank", bank, FeatureBank)
    if bursts is not None:
        whole("task", kind("bursts", bursts, Bursts).task, 0, len(bank.frequencies) - 1)


class MassStream:
    """The expected data of every step.

    Raises:
        UserError: the bursting task is not in the bank.
    """

    def __init__(self, bank: FeatureBank, bursts: Bursts | None) -> None:
        _check_stream(bank, bursts)
        self._bursts, self._dimension = bursts, bank.dimension
        self._steady = bank.frequencies[bank.task_of].clone()
        if bursts is not None:
            self._is_rare = (bank.task_of == bursts.task).to(bank.eigenvalues.dtype)
            self._rate = float(bank.frequencies[bursts.task])
            self._steady -= self._rate * self._is_rare
            self._rare = bank.only(bursts.task)
        self._moment = bank.moment(self._steady * bank.eigenvalues)

    def moved(self, step: int, encoder: Float[Tensor, "S G N d"]) -> Float[Tensor, "S G N d"]:
        """The encoder times this step's M.

        Raises:
            UserError: the encoder has not d columns.
        """
        sized("encoder", encoder, None, self._dimension)
        moved = self._moment(encoder)
        burst = self._burst(step)
        if burst is None:
            return moved
        strengths = burst[:, None, None] * self._rare.eigenvalues
        return moved + self._rare.lift(self._rare.project(encoder) * strengths)

    def weights(self, step: int) -> Float[Tensor, "G F"]:
        """Every feature's task frequency in this step, a row per lane."""
        burst = self._burst(step)
        if burst is None:
            return self._steady[None]
        return self._steady + burst[:, None] * self._is_rare

    def _burst(self, step: int) -> Float[Tensor, " G"] | None:
        now = self._bursts.now(step) if self._bursts else []
        return self._steady.new_tensor(now) * self._rate if any(now) else None


class SampleStream:
    """Samples for every step, from one generator per seed.

    Args:
        bank: the features.
        bursts: the task that comes in bursts; None: no bursts.
        batch: samples per step, without bursts.
        seeds: one lane each.

    Raises:
        UserError: a number is impossible, or the bursting task is not in the bank.
    """

    def __init__(self, bank: FeatureBank, bursts: Bursts | None, batch: int, seeds: Sequence[int]) -> None:
        _check_stream(bank, bursts)
        self._bank, self._bursts, self._batch = bank, bursts, whole("batch", batch, 1)
        seeds = checked_seeds(seeds)
        device = bank.eigenvalues.device
        # Not the seed itself, which draws the initial encoder.
        self._generators = [torch.Generator(device).manual_seed(2**32 + seed) for seed in seeds]
        tasks = torch.arange(len(bank.frequencies), device=device)
        self._asked_by_task = (bank.task_of == tasks[:, None]).to(bank.eigenvalues.dtype)

    def draw(self, step: int) -> Samples:
        """The next step's samples; steps must come in order.

        In the steady batch, samples of the bursting task have weight zero. A burst of mass T pi B consists of that many
        samples, rounded up, with equal weights that make the mass exact.
        """
        tasks = self._stack(
            lambda generator: torch.multinomial(
                self._bank.frequencies, self._batch, replacement=True, generator=generator
            )
        )
        if self._bursts is None:
            return self._samples(tasks, torch.ones_like(tasks, dtype=self._asked_by_task.dtype)[:, None])
        steady = (tasks != self._bursts.task).to(self._asked_by_task.dtype)
        steady = steady[:, None].expand(-1, len(self._bursts.gaps), -1)
        masses = [
            burst * self._batch * float(self._bank.frequencies[self._bursts.task]) for burst in self._bursts.now(step)
        ]
        counts = [math.ceil(mass) for mass in masses]
        extra = steady.new_zeros(len(counts), max(counts))
        for lane, (mass, count) in enumerate(zip(masses, counts, strict=True)):
            extra[lane, :count] = mass / max(count, 1)
        rare = tasks.new_full((len(tasks), max(counts)), self._bursts.task)
        weights = torch.cat([steady, extra.expand(len(tasks), -1, -1)], dim=-1)
        return self._samples(torch.cat([tasks, rare], dim=-1), weights)

    def _samples(self, tasks: Tensor, weights: Tensor) -> Samples:
        shape = (tasks.shape[-1], self._bank.dimension)
        inputs = self._stack(
            lambda generator: torch.randn(shape, generator=generator, dtype=weights.dtype, device=weights.device)
        )
        return Samples(inputs[:, None], self._asked_by_task[tasks][:, None], weights, self._batch)

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self._generators])
