"""Gaps under different optimizers: closed forms for plain steps, simulation for Adam and Muon.

Plain steps multiply amplitudes, so growth and decay have closed forms. Steps of Adam and Muon depend on the gradient's
recent size, which neither the gap nor a slot's utility determines. So these are simulated, over several seeds. Only
Adam's displacement of a coordinate in one burst has a closed form, `gaps.adam_displacement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from rich.table import Table

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import choice, kind, number, whole, wholes
from olmo_inject.theory.forms.gaps import adam_displacement, checked_betas
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.prediction.tables import table

OptimizerName = Literal["plain", "adam", "muon"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer a prediction is for.

    Args:
        name: "plain" has closed forms; "adam" and "muon" are simulated.
        learning_rate: constant, of Adam or Muon; plain steps use `step_size` instead.
        beta1: of Adam, or Muon's momentum.
        beta2: of Adam.
        steps: number of simulated steps.
        seeds: number of initial encoders.

    Raises:
        UserError: a number or word is impossible.
    """

    name: OptimizerName = "plain"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    steps: int = 3000
    seeds: int = 3

    def __post_init__(self) -> None:
        choice("optimizer.name", self.name, get_args(OptimizerName))
        number("optimizer.learning_rate", self.learning_rate, above=0)
        if self.name == "adam":
            checked_betas(self.beta1, self.beta2)
        number("optimizer.beta1", self.beta1, at_least=0, below=1)
        whole("optimizer.steps", self.steps, 1)
        whole("optimizer.seeds", self.seeds, 1)


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulated troughs of one task in bursts under an optimizer.

    Args:
        task: its name.
        settings: the optimizer.
        widths: N.
        periods: T.
        static: what the best encoder holds, which is the maximum.
        troughs: for every seed, the signal before a burst, the median over several periods.
        low: the smallest trough of these periods.
        high: the largest trough of these periods.
    """

    task: str
    settings: OptimizerSettings
    widths: tuple[int, ...]
    periods: tuple[int, ...]
    static: Float[np.ndarray, " W"]
    troughs: Float[np.ndarray, "W S G"]
    low: Float[np.ndarray, "W S G"]
    high: Float[np.ndarray, "W S G"]

    def longest_held(self, share: float = 0.5) -> list[int | None]:
        """The longest simulated gap of every width up to which all seeds keep this share of the static signal.

        Raises:
            UserError: the share is not above 0 and at most 1.
        """
        share = number("share", share, above=0, at_most=1)
        longest: list[int | None] = []
        for w, static in enumerate(self.static):
            holds = (self.troughs[w] >= share * static).all(0) & (static > 0)
            run = holds.tolist().index(False) if not holds.all() else len(holds)
            longest.append(self.periods[run - 1] if run else None)
        return longest

    def as_json(self) -> dict[str, Any]:
        """One JSON document."""
        cells = {
            str(width): {
                str(period): {
                    "median": float(np.median(self.troughs[w, :, g])),
                    "seeds": self.troughs[w, :, g].tolist(),
                    "lowest": float(self.low[w, :, g].min()),
                    "highest": float(self.high[w, :, g].max()),
                }
                for g, period in enumerate(self.periods)
            }
            for w, width in enumerate(self.widths)
        }
        held = dict(zip(map(str, self.widths), self.longest_held(), strict=True))
        document: dict[str, Any] = {"task": self.task, "simulated": True, "optimizer": vars(self.settings)}
        document |= {"troughs": cells, "longest_gap_held": held}
        if self.settings.name == "adam":
            s = self.settings
            burst = {str(T): float(adam_displacement(T, s.learning_rate, s.beta1, s.beta2)) for T in self.periods}
            document["displacement_per_burst"] = burst
        return document

    def table(self) -> tuple[str, Table]:
        """A table for the terminal: the median of seeds, and the range of seeds and periods if it is wider than .01."""
        rows = []
        for w, width in enumerate(self.widths):
            cells = []
            for g in range(len(self.periods)):
                low, high = self.low[w, :, g].min(), self.high[w, :, g].max()
                middle = f"{np.median(self.troughs[w, :, g]):.2f}"
                cells.append(middle if high - low < 0.01 else f"{middle} ({low:.2f} to {high:.2f})")
            rows.append([f"N={width}", f"{self.static[w]:.2f}", *cells])
        s = self.settings
        betas = {"adam": f", betas {s.beta1:g} and {s.beta2:g}", "muon": f", momentum {s.beta1:g}", "plain": ""}[s.name]
        title = (
            f"{self.task}: signal before a burst, simulated with {s.name}, learning rate {s.learning_rate:g}{betas}; "
            f"{s.seeds} seeds, {s.steps} steps"
        )
        return title, table(["static", *(f"T={period}" for period in self.periods)], rows, first="width")


def simulate(
    mixture: Mixture,
    task: int,
    widths: Sequence[int],
    periods: Sequence[int],
    settings: OptimizerSettings,
) -> Simulated:
    """Train on bursts of one task under an optimizer, from several random encoders.

    Args:
        mixture: the tasks, overlapping or not; `turned`, since Adam depends on the basis.
        task: the one in bursts of matched frequency.
        widths: N.
        periods: T; the run is as long as `settings.steps` says, so these are at most a third of it.
        settings: the optimizer.

    Raises:
        UserError: a number is impossible, or a gap is longer than a third of the run.
    """
    from olmo_inject.theory.forms.closed_forms import task_signals
    from olmo_inject.theory.training.streams import Bursts
    from olmo_inject.theory.training.train import Recipe, train

    kind("mixture", mixture, Mixture)
    kind("settings", settings, OptimizerSettings)
    task = whole("task", task, 0, mixture.tasks - 1)
    sizes, gaps = wholes("width", widths, 1, mixture.dimension), wholes("gap", periods, 1)
    if not len(sizes) or not len(gaps):
        raise UserError("widths and gaps must have one or more entries each")
    if gaps.max() > settings.steps / 3:
        raise UserError(f"gap {gaps.max()} needs optimizer.steps of {3 * gaps.max()} or more, got {settings.steps}")
    recipe = Recipe(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        optimizer="gd" if settings.name == "plain" else settings.name,
        schedule="constant",
        betas=(settings.beta1, settings.beta2),
    )
    every = tuple(gaps.tolist())
    runs = [train(mixture, int(N), recipe, range(settings.seeds), Bursts(task, every)).troughs() for N in sizes]
    return Simulated(
        task=mixture.names[task],
        settings=settings,
        widths=tuple(sizes.tolist()),
        periods=every,
        static=task_signals(mixture, sizes)[:, task],
        troughs=np.stack([run.median for run in runs]),
        low=np.stack([run.low for run in runs]),
        high=np.stack([run.high for run in runs]),
    )
