"""Predictions from a user's own frequencies and spectra, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import number, wholes
from olmo_inject.theory.forms import closed_forms, gaps, kept
from olmo_inject.theory.mixtures.task_mixture import TaskMixture


@dataclass(frozen=True, eq=False)
class Prediction:
    """Which tasks are held at which width and gap, all by closed forms.

    Args:
        mixture: the tasks.
        widths: N.
        periods: T, gaps between bursts.
        step_size: eta nu_1; only results on gaps depend on it.
        signals: the share of each task that the best encoder holds.
        retained: the number of each task's features that it holds.
        first: the width from which a task's first feature is held.
        complete: the width from which all its features are held.
        by_gap: the width from which the first feature is held if its task comes in bursts.
        learned: the longest gap at which it is learned from nothing at each width; 0: none, infinite: any.
        kept: the longest gap up to which it is kept once learned; 0: none.
        sound: the gap up to which a burst is a small step, 2 eta T nu <= 1.
        losses: of the mixture, L*.
        tied: whether two utilities are equal at a width's edge, so that it is not determined which one is held.
        frequent: F, the tasks that make up most of the data.
        residual_width: N_epsilon, which explains all but a small share of F.
    """

    mixture: TaskMixture
    widths: Int[np.ndarray, " W"]
    periods: tuple[int, ...]
    step_size: float
    signals: Float[np.ndarray, "W K"]
    retained: Int[np.ndarray, "W K"]
    first: Int[np.ndarray, " K"]
    complete: Int[np.ndarray, " K"]
    by_gap: Int[np.ndarray, "G K"]
    learned: Float[np.ndarray, "W K"]
    kept: Float[np.ndarray, "W K"]
    sound: Float[np.ndarray, " K"]
    losses: Float[np.ndarray, " W"]
    tied: Bool[np.ndarray, " W"]
    frequent: Int[np.ndarray, " _"]
    residual_width: int

    @property
    def oscillates(self) -> Float[np.ndarray, "W K"]:
        """The smallest gap at which it is learned from nothing but not kept; infinite if there is none."""
        return np.where(self.learned > self.kept, self.kept + 1, np.inf)

    def as_json(self) -> dict[str, Any]:
        """The prediction as one JSON document; a gap without limit is null."""
        tasks = [
            {
                "task": name,
                "frequency": float(self.mixture.frequencies[k]),
                "utility": float(self.mixture.utilities[self.mixture.starts[k]]),
                "features": len(self.mixture.spectra[k]),
                "frequent": k in self.frequent,
                "critical_width": int(self.first[k]),
                "complete_width": int(self.complete[k]),
                "sound_gap": float(self.sound[k]),
                "critical_width_by_gap": {str(period): int(self.by_gap[g, k]) for g, period in enumerate(self.periods)},
                "by_width": {
                    str(width): {
                        "held_features": int(self.retained[w, k]),
                        "held_share": float(self.signals[w, k]),
                        "learned_up_to": _finite(self.learned[w, k]),
                        "kept_up_to": _finite(self.kept[w, k]),
                        "oscillates_from": _finite(self.oscillates[w, k]),
                    }
                    for w, width in enumerate(self.widths)
                },
            }
            for k, name in enumerate(self.mixture.names)
        ]
        return {
            "tasks": tasks,
            "mixture_loss": {str(width): float(loss) for width, loss in zip(self.widths, self.losses, strict=True)},
            "tied_widths": [int(width) for width in self.widths[self.tied]],
            "residual_width": self.residual_width,
            "step_size_times_largest_utility": self.step_size,
        }


def _finite(gap: float) -> int | None:
    return None if np.isinf(gap) else int(gap)


def predict(
    mixture: TaskMixture,
    widths: Sequence[int],
    periods: Sequence[int] = (1, 10, 100, 1000),
    step_size: float = 0.1,
    frequent_mass: float = 0.9,
    residual_share: float = 0.05,
) -> Prediction:
    """Evaluate every closed form for a mixture.

    Args:
        mixture: the tasks.
        widths: N.
        periods: T, gaps between bursts of one task, all others mixed in.
        step_size: eta nu_1, the gradient step in units of the largest utility.
        frequent_mass: the share of the data that defines the frequent tasks.
        residual_share: epsilon, what N_epsilon may leave of them.

    Raises:
        UserError: a width, gap, step or share is impossible.
    """
    step_size = number("step_size", step_size, above=0, below=0.5)
    periods = wholes("gap", periods, 1).tolist()
    sizes = closed_forms.checked_widths(mixture, widths)
    if not len(sizes) or not len(periods):
        raise UserError("widths and gaps must have one or more entries each")
    step = step_size / float(mixture.utilities.max())
    frequent = closed_forms.frequent_tasks(mixture, frequent_mass)
    critical = closed_forms.critical_widths(mixture)
    firsts = mixture.starts[:-1]
    by_gap = [gaps.gap_critical_widths(mixture, period, step)[firsts] for period in periods]
    return Prediction(
        mixture=mixture,
        widths=sizes,
        periods=tuple(periods),
        step_size=step_size,
        signals=closed_forms.task_signals(mixture, widths),
        retained=closed_forms.retained_features(mixture, widths),
        first=critical[firsts],
        complete=critical[mixture.starts[1:] - 1],
        by_gap=np.array(by_gap, dtype=np.int64).reshape(-1, mixture.tasks),
        learned=gaps.longest_gaps(mixture, widths, step),
        kept=kept.longest_kept_gaps(mixture, widths, step),
        sound=1 / (2 * step * mixture.utilities[firsts]),
        losses=closed_forms.mixture_losses(mixture, widths),
        tied=closed_forms.tied_boundary(mixture, widths),
        frequent=frequent,
        residual_width=closed_forms.residual_width(mixture, residual_share, frequent),
    )
