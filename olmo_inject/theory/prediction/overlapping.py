"""Predictions for overlapping tasks: shares of slots, floors under long gaps, cycles of the flow, conflict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, number, wholes
from olmo_inject.theory.forms import overlap
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.prediction.config import PredictConfig
from olmo_inject.theory.prediction.tables import table


@dataclass(frozen=True, eq=False)
class OverlapPrediction:
    """Closed forms of an overlapping mixture, and cycles of its flow.

    Args:
        mixture: the tasks.
        followed: the tasks whose floors and cycles are given.
        widths: N.
        periods: T.
        signals: the share of each task that the best encoder holds.
        half_widths: the width from which half of a task is held; there is no sharp critical width.
        conflicts: Omega_N at each width.
        floors: the signal of each followed task that is left after a long gap.
        troughs: the signal before a burst, under gradient flow.
    """

    mixture: OverlappingMixture
    followed: tuple[int, ...]
    widths: Int[np.ndarray, " W"]
    periods: tuple[int, ...]
    signals: Float[np.ndarray, "W K"]
    half_widths: Int[np.ndarray, " K"]
    conflicts: Float[np.ndarray, " W"]
    floors: Float[np.ndarray, "W R"]
    troughs: Float[np.ndarray, "W G R"]

    def as_json(self) -> dict[str, Any]:
        """The prediction as one JSON document."""
        tasks = []
        for k, name in enumerate(self.mixture.names):
            entry: dict[str, Any] = {
                "task": name,
                "frequency": float(self.mixture.frequencies[k]),
                "half_width": int(self.half_widths[k]),
                "held_share": _by(self.widths, self.signals[:, k]),
            }
            if k in self.followed:
                r = self.followed.index(k)
                entry["floor"] = _by(self.widths, self.floors[:, r])
                entry["trough"] = {str(T): _by(self.widths, self.troughs[:, g, r]) for g, T in enumerate(self.periods)}
            tasks.append(entry)
        return {"tasks": tasks, "conflict": _by(self.widths, self.conflicts), "slots": self.mixture.slots.tolist()}

    def tables(self) -> list[tuple[str, Table]]:
        """For the terminal."""
        names, headings = self.mixture.names, [f"N={width}" for width in self.widths]
        held = [
            [name, str(self.half_widths[k]), *(f"{share:.1%}" for share in self.signals[:, k])]
            for k, name in enumerate(names)
        ]
        kept = []
        for r, k in enumerate(self.followed):
            for g, period in enumerate(self.periods):
                kept.append([names[k], f"T={period}", *(f"{value:.1%}" for value in self.troughs[:, g, r])])
            kept.append([names[k], "ever", *(f"{value:.1%}" for value in self.floors[:, r])])
        kept.append(["conflict", "", *(f"{value:.3g}" for value in self.conflicts)])
        return [
            ("Share of the task held by the best encoder of width N", table(["N to half", *headings], held)),
            ("Share left just before a burst, under gradient flow", table(["gap", *headings], kept)),
        ]


def predict_overlapping(
    mixture: OverlappingMixture,
    followed: Sequence[int],
    widths: Sequence[int],
    periods: Sequence[int] = (1, 10, 100, 1000),
    step_size: float = 0.1,
) -> OverlapPrediction:
    """Evaluate the closed forms of an overlapping mixture.

    Args:
        mixture: the tasks.
        followed: those that come in bursts, each alone, all others mixed in.
        widths: N.
        periods: T, gaps between bursts.
        step_size: eta mu_1.

    Raises:
        UserError: a width, gap, task or step is impossible.
    """
    kind("mixture", mixture, OverlappingMixture)
    sizes = wholes("width", widths, 1, mixture.dimension)
    gaps, tasks = wholes("gap", periods, 1).tolist(), wholes("task", followed, 0, mixture.tasks - 1).tolist()
    if not len(sizes) or not gaps:
        raise UserError("widths and gaps must have one or more entries each")
    step = number("step_size", step_size, above=0, below=0.5) / float(mixture.slots[0])
    cycles = [
        [[overlap.flow_cycle(mixture, task, gap, int(size), step).trough for task in tasks] for gap in gaps]
        for size in sizes
    ]
    floors = [[overlap.floor(mixture, task, int(size)) for task in tasks] for size in sizes]
    return OverlapPrediction(
        mixture=mixture,
        followed=tuple(tasks),
        widths=sizes,
        periods=tuple(gaps),
        signals=mixture.task_signals(sizes),
        half_widths=np.array([mixture.width_to(task, 0.5) for task in range(mixture.tasks)]),
        conflicts=np.array([overlap.conflict(mixture, int(size)) for size in sizes]),
        floors=np.array(floors).reshape(len(sizes), len(tasks)),
        troughs=np.array(cycles).reshape(len(sizes), len(gaps), len(tasks)),
    )


def with_overlaps(config: PredictConfig, mixture: TaskMixture) -> OverlappingMixture | None:
    """The mixture with the directions and cosines in a configuration; None if it has neither.

    Raises:
        UserError: a task is unknown, directions do not fit the spectrum, or no directions have these cosines.
    """
    given = {name: task.directions for name, task in config.tasks.items() if task.directions is not None}
    if given and config.overlaps:
        raise UserError("overlaps: give either directions of tasks or cosines between tasks")
    if given:
        return _directed(mixture, given)
    if not config.overlaps:
        return None
    cosines = np.eye(mixture.features)
    for i, entry in enumerate(config.overlaps):
        if len(entry.tasks) != 2 or entry.tasks[0] == entry.tasks[1]:
            raise UserError(f"overlaps[{i}].tasks must name two tasks, got {entry.tasks}")
        first, second = (mixture.index(name) for name in entry.tasks)
        cosine = number(f"overlaps[{i}].cosine", entry.cosine, at_least=-1, at_most=1)
        for j in range(min(len(mixture.spectra[first]), len(mixture.spectra[second]))):
            one, two = mixture.starts[first] + j, mixture.starts[second] + j
            cosines[one, two] = cosines[two, one] = cosine
    return _wide(
        OverlappingMixture.from_overlaps(mixture.frequencies, mixture.spectra, cosines, mixture.names), mixture
    )


def _directed(mixture: TaskMixture, given: dict[str, list[list[float]]]) -> OverlappingMixture:
    shared = len(next(iter(given.values()))[0])
    columns = []
    free = mixture.features  # tasks without given directions get directions orthogonal to all others
    for name, spectrum in zip(mixture.names, mixture.spectra, strict=True):
        rows = given.get(name)
        part = np.zeros((shared + free, len(spectrum)))
        if rows is None:
            start = int(mixture.starts[mixture.index(name)])
            part[shared + start : shared + start + len(spectrum)] = np.eye(len(spectrum))
        elif len(rows) != len(spectrum) or any(len(row) != shared for row in rows):
            raise UserError(
                f"tasks.{name}.directions must be {len(spectrum)} lists, one per feature, of {shared} numbers each"
            )
        else:
            part[:shared] = np.array(rows).T
        columns.append(part)
    directions = np.concatenate(columns, axis=1)
    used = np.linalg.norm(directions, axis=1) > 0
    tangled = OverlappingMixture(mixture.frequencies, mixture.spectra, directions[used], mixture.names)
    return _wide(tangled, mixture)


def _wide(overlapping: OverlappingMixture, mixture: TaskMixture) -> OverlappingMixture:
    """Add null directions up to the dimension of the orthogonal mixture, so that the requested widths fit."""
    more = max(0, mixture.dimension - overlapping.dimension)
    directions = np.concatenate([overlapping.directions, np.zeros((more, overlapping.features))])
    return OverlappingMixture(overlapping.frequencies, overlapping.spectra, directions, overlapping.names)


def _by(widths: Int[np.ndarray, " W"], values: Float[np.ndarray, " W"]) -> dict[str, float]:
    return {str(width): float(value) for width, value in zip(widths, values, strict=True)}
