"""Train encoders on a mixture: many seeds and gaps at once, one width after another.

Lanes of one width differ in their seed and in the gap between bursts. A step is a few batched products over all lanes.
Widths are trained one by one, since padding them to one size wastes more than it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import choice, kind, number, whole
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised, random_encoder, retracted
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.tensors import check_device, check_dtype, orthonormal
from olmo_inject.theory.training import metrics
from olmo_inject.theory.training.gradients import (
    learned_population_gradient,
    learned_sampled_gradient,
    population_gradient,
    sampled_gradient,
)
from olmo_inject.theory.training.muon import Muon
from olmo_inject.theory.training.streams import Bursts, MassStream, SampleStream, checked_seeds

Optimizer = Literal["adam", "gd", "muon"]
Schedule = Literal["cosine", "constant"]
Decoders = Literal["optimal", "learned"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: optimizer steps.
        learning_rate: of the first step.
        optimizer: torch's Adam or SGD on ambient coordinates; "muon" steps along the orthogonal factor of the
            momentum, so that all directions move alike.
        schedule: "cosine" falls to zero, which tight tolerances need; "constant" is for injection.
        decoders: "optimal" keeps the encoder orthonormal and each task's decoder at its closed form;
            "learned" trains a free encoder and all decoders from zero.
        batch: samples per step; None: the expected gradient.
        dtype: of encoder and gradients; measurements are always float64.
        device: torch's name of it.
        betas: of Adam; Muon's momentum is the first.

    Raises:
        UserError: a number is impossible, or a word is not one of those.
    """

    steps: int = 20_000
    learning_rate: float = 1e-2
    optimizer: Optimizer = "adam"
    schedule: Schedule = "cosine"
    decoders: Decoders = "optimal"
    batch: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, 0))
        if self.batch is not None:
            object.__setattr__(self, "batch", whole("batch", self.batch, 1))
        object.__setattr__(self, "learning_rate", number("learning rate", self.learning_rate, above=0))
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise UserError(f"betas must be two numbers, got {self.betas!r}")
        number("beta1", self.betas[0], at_least=0, below=1)
        number("beta2", self.betas[1], at_least=0, below=1)
        for name, allowed in (("optimizer", Optimizer), ("schedule", Schedule), ("decoders", Decoders)):
            choice(name, getattr(self, name), get_args(allowed))
        check_dtype(self.dtype)
        check_device(self.device)


@dataclass(frozen=True, eq=False)
class Troughs:
    """The signal just before bursts, over several periods.

    Args:
        median: over the periods.
        low: the minimum over the periods.
        high: the maximum over the periods.
        periods: number of periods for every gap.
    """

    median: Float[np.ndarray, "S G"]
    low: Float[np.ndarray, "S G"]
    high: Float[np.ndarray, "S G"]
    periods: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """Encoders of one width after training, and what they hold.

    Args:
        mixture: what they were trained on.
        width: N.
        encoder: final state, one row per latent; G is 1 without bursts.
        trace: the bursting task's signal before every step and after the last; empty without bursts.
        bursts: what was injected.
    """

    mixture: Mixture
    width: int
    encoder: Float[Tensor, "S G N d"]
    trace: Float[np.ndarray, "t S G"]
    bursts: Bursts | None = None

    @cached_property
    def captures(self) -> Float[np.ndarray, "S G F"]:
        """|U^T b|^2 of every feature."""
        return metrics.captures(self.mixture, self.encoder)

    @cached_property
    def task_losses(self) -> Float[np.ndarray, "S G K"]:
        """Each task's loss with its optimal decoder."""
        return metrics.losses_from_captures(self.mixture, self.captures)

    @cached_property
    def signals(self) -> Float[np.ndarray, "S G K"]:
        """The share of each task that is held."""
        return metrics.signals_from_captures(self.mixture, self.captures)

    @property
    def overlap(self) -> Float[np.ndarray, "S G"]:
        """Share of the predicted feature set that is held; only for a `TaskMixture`.

        Raises:
            UserError: the tasks overlap.
        """
        return metrics.feature_overlap(kind("mixture", self.mixture, TaskMixture), self.captures, self.width)

    @property
    def excess(self) -> Float[np.ndarray, "S G"]:
        """L / L* - 1; L itself if the width holds every feature, so that L* is zero."""
        return metrics.excess_loss(self.mixture, self.captures, self.width)

    def troughs(self, periods: int = 8) -> Troughs:
        """The bursting task's signal just before its last bursts, in the second half of the run.

        If bursts overshoot, single troughs are chaotic, so check the range before you trust the median.

        Args:
            periods: maximum number; fewer if the second half has fewer. The last period always counts.

        Raises:
            UserError: `periods` is below one, or the run had no bursts.
        """
        count = whole("periods", periods, 1)
        chosen = []
        for g, steps in enumerate(self._burst_steps()):
            late = steps[steps >= min((len(self.trace) - 1) / 2, steps[-1])][-count:]
            chosen.append(self.trace[late, :, g])
        return Troughs(
            median=np.stack([np.median(signals, axis=0) for signals in chosen], axis=-1),
            low=np.stack([signals.min(0) for signals in chosen], axis=-1),
            high=np.stack([signals.max(0) for signals in chosen], axis=-1),
            periods=tuple(len(signals) for signals in chosen),
        )

    def peaks(self) -> Float[np.ndarray, "S G"]:
        """Its highest signal between the last two bursts, since under Adam it still rises after a burst.

        Raises:
            UserError: the run had no bursts.
        """
        spans = [(steps[-2] + 1 if len(steps) > 1 else 0, steps[-1] + 1) for steps in self._burst_steps()]
        return np.stack([self.trace[a:b, :, g].max(0) for g, (a, b) in enumerate(spans)], axis=-1)

    def _burst_steps(self) -> list[np.ndarray]:
        if self.bursts is None:
            raise UserError("only a run with bursts has troughs and peaks")
        last = len(self.trace) - 1
        return [np.arange(gap - 1, last, gap) for gap in self.bursts.gaps]


def train(
    mixture: Mixture,
    width: int,
    recipe: Recipe,
    seeds: Sequence[int] = (0, 1, 2),
    bursts: Bursts | None = None,
    start: Float[Tensor, "S N d"] | None = None,
) -> Trained:
    """Train one encoder per seed and gap.

    Encoders of one seed start equal and, if data are sampled, see the same data except for the bursts.

    Args:
        mixture: the tasks.
        width: N.
        recipe: how to train.
        seeds: of initialization and samples, one for each lane.
        bursts: a task to inject at matched frequency, and the gaps, one lane each; all tasks at their
            own rate in every step where None.
        start: orthonormal rows for every seed, such as what was learned before; random where None.

    Raises:
        UserError: the width or the start is impossible, or a gap is longer than the run.
    """
    kind("mixture", mixture, Mixture)
    kind("recipe", recipe, Recipe)
    width = whole("width", width, 1, mixture.dimension)
    seeds = checked_seeds(seeds)
    if bursts is not None:
        kind("bursts", bursts, Bursts).check(mixture, recipe.steps)
    bank = FeatureBank(mixture, recipe.dtype, recipe.device)
    lanes = len(bursts.gaps) if bursts else 1
    if start is None:
        start = torch.stack([random_encoder(width, mixture.dimension, seed) for seed in seeds])
    starts = _checked_start(start, len(seeds), width, mixture.dimension)
    encoder = starts[:, None].expand(-1, lanes, -1, -1).to(recipe.device, recipe.dtype, copy=True).contiguous()
    decoders = encoder.new_zeros(len(seeds), lanes, mixture.features, width)
    gradients = _gradients(bank, recipe, seeds, bursts, encoder, decoders)

    trained = [encoder, decoders] if recipe.decoders == "learned" else [encoder]
    optimizer = _optimizer(trained, recipe)
    watched = _signal_of(bank, bursts, recipe)
    trace = []
    with torch.inference_mode():  # gradients are closed forms; autograd would cost a sixth of a step
        for step in range(recipe.steps):
            if watched:
                trace.append(watched(encoder))
            for tensor, gradient in zip(trained, gradients(step), strict=True):
                tensor.grad = gradient
            if recipe.schedule == "cosine":
                factor = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
                optimizer.param_groups[0]["lr"] = recipe.learning_rate * factor
            optimizer.step()
            if recipe.decoders == "optimal":
                encoder.copy_(retracted(encoder))
        if watched:
            trace.append(watched(encoder))
    for tensor in trained:
        tensor.grad = None
    traced = torch.stack(trace).cpu().double().numpy() if trace else np.empty((0, len(seeds), lanes))
    return Trained(mixture, width, encoder, traced, bursts)


def _checked_start(start: Tensor, seeds: int, width: int, dimension: int) -> Tensor:
    rows = orthonormal("start", start, dimension)
    if rows.shape != (seeds, width, dimension):
        raise UserError(f"start must have the shape {(seeds, width, dimension)}, got {tuple(rows.shape)}")
    return rows


def _gradients(
    bank: FeatureBank,
    recipe: Recipe,
    seeds: Sequence[int],
    bursts: Bursts | None,
    encoder: Tensor,
    decoders: Tensor,
) -> Callable[[int], tuple[Tensor, ...]]:
    """The gradients of a step at the encoder and decoders as they then are."""
    if recipe.batch is None:
        masses = MassStream(bank, bursts)
        if recipe.decoders == "optimal":
            return lambda step: (population_gradient(encoder, masses.moved(step, encoder)),)
        return lambda step: learned_population_gradient(encoder, decoders, bank, masses.weights(step))
    samples = SampleStream(bank, bursts, recipe.batch, seeds)
    if recipe.decoders == "optimal":
        return lambda step: (sampled_gradient(encoder, bank, samples.draw(step)),)
    return lambda step: learned_sampled_gradient(encoder, decoders, bank, samples.draw(step))


def _optimizer(tensors: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    if recipe.optimizer == "muon":
        return Muon(tensors, recipe.learning_rate, recipe.betas[0])
    return torch.optim.SGD(tensors, lr=recipe.learning_rate)


def _signal_of(
    bank: FeatureBank, bursts: Bursts | None, recipe: Recipe
) -> Callable[[Tensor], Float[Tensor, "S G"]] | None:
    if bursts is None:
        return None
    rare = bank.only(bursts.task)
    share = rare.eigenvalues / rare.eigenvalues.sum()

    def signal(encoder: Tensor) -> Tensor:
        spanned = encoder if recipe.decoders == "optimal" else orthonormalised(encoder)
        return (rare.project(spanned).square() * share).sum((-2, -1))

    return signal
