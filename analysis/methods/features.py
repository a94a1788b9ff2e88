"""Task features in activations (docs/study.md, Fig. 7): the order of a comparison, the Fourier modes of an addition.

The tables have a row for each task, site, layer and set of weights: `trained`, or `untrained` for a control model of
the same shape with random weights.

    order     R2 of the order probe for several numbers of components; `headline` marks the one that is reported.
              `means` is `balanced` (without label and other operand) or `plain` (which also carry label frequencies)
    line      held-out prediction of each value, trained weights only
    modes     power of each Fourier mode, the threshold above which it counts as present, and whether it is
    circles   where each value lies in the plane of the strongest mode, trained weights only
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from analysis.methods.activations import TOKENS, Activations, activations, value_tokens
from analysis.methods.fourier import circle, spectrum
from analysis.methods.hooks import untrained
from analysis.methods.order_probe import order_fits
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task
from olmo_inject.utils.options import check_options

COMPONENTS = 50  # docs/study.md, Fig. 7
FEWER = (1, 2, 5, 10, 20)  # smaller numbers that are also tried, to tell overfitting from absence
PERMUTATIONS = 300
SMALLEST = 5  # fewest values that a task may have
ORDER, FOURIER = "order", "fourier"
BALANCED, PLAIN = "balanced", "plain"
VERSION = 2
_FEATURES = {"comparison": (ORDER,), "modular_addition": (FOURIER,)}


def features_of(task: Task) -> tuple[str, ...]:
    """The features that a kind of task is tested for. Kinds of your own are tested for both."""
    return _FEATURES.get(task.config.kind, (ORDER, FOURIER))


def features_method(components: int = COMPONENTS, permutations: int = PERMUTATIONS, seed: int = 0) -> Method:
    """The method `features`.

    Args:
        components: number of principal components of the order probe. At most half of the number of tokens is used.
        permutations: number of shuffles of the values, for baselines.
        seed: of folds, shuffles and the untrained model.

    Raises:
        UserError: components below 1, or permutations below 100.
    """
    check_options(components=components, permutations=permutations)
    measure = _Measure(components, permutations, seed)
    options = {"components": components, "permutations": permutations, "seed": seed}
    return Method("features", measure, options, VERSION)


@dataclass(frozen=True)
class _Measure:
    components: int
    permutations: int
    seed: int
    controls: dict[Any, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def __call__(self, model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
        rows: dict[str, list[dict[str, Any]]] = {}
        for number, task in enumerate(checkpoint.tasks):
            for source in (self._measured(model, task, "trained"), self._control(model, task)):
                for table, more in source.items():
                    rows.setdefault(table, []).extend({"task": task.name, **row} for row in more)
            report((number + 1) / len(checkpoint.tasks))
        return {table: pd.DataFrame(more) for table, more in rows.items()}

    def _control(self, model: PreTrainedModel, task: Task) -> dict[str, list[dict[str, Any]]]:
        """The same tables for random weights, measured once for all checkpoints of one shape."""
        shape = model.config.to_json_string(), task.fingerprint
        if shape not in self.controls:
            measured = self._measured(untrained(model, self.seed), task, "untrained")
            self.controls[shape] = {table: rows for table, rows in measured.items() if table in ("order", "modes")}
        return self.controls[shape]

    def _measured(self, model: PreTrainedModel, task: Task, weights: str) -> dict[str, list[dict[str, Any]]]:
        if len(value_tokens(task)) < SMALLEST:
            raise UserError(f"{task.name} has {len(value_tokens(task))} values: a feature needs at least {SMALLEST}")
        rows: dict[str, list[dict[str, Any]]] = {}
        measures: dict[str, Callable[[Activations], Iterator[tuple[str, dict[str, Any]]]]]
        measures = {ORDER: self._order, FOURIER: self._fourier}
        for of_site in activations(model, task):
            if (n_separable := of_site.separable.sum()) < SMALLEST:
                which = f"values of {TOKENS[of_site.site.variable]} have more than one LABEL"
                raise UserError(f"{task.name}: {n_separable} {which}, a feature needs at least {SMALLEST}")
            site = {"weights": weights, "position": TOKENS[of_site.site.position], "site": of_site.site.name}
            for feature in features_of(task):
                for table, row in measures[feature](of_site):
                    rows.setdefault(table, []).append(site | row)
        return rows

    def _order(self, of_site: Activations) -> Iterator[tuple[str, dict[str, Any]]]:
        values = np.flatnonzero(of_site.separable)
        most = min(self.components, len(values) // 2)
        numbers = sorted({most, *(fewer for fewer in FEWER if fewer < most)})
        for means, of_layers, tried in ((BALANCED, of_site.balanced, numbers), (PLAIN, of_site.means, [most])):
            for layer, points in enumerate(of_layers):
                for fit in order_fits(points[values], tried, self.permutations, self.seed, values):
                    row = {name: value for name, value in vars(fit).items() if name != "predicted"}
                    headline = means == BALANCED and fit.components == most
                    yield "order", {"layer": layer, "means": means, **row, "headline": headline}
                    if headline:
                        for value, predicted in zip(values.tolist(), fit.predicted.tolist(), strict=True):
                            yield "line", {"layer": layer, "value": value, "predicted": predicted}

    def _fourier(self, of_site: Activations) -> Iterator[tuple[str, dict[str, Any]]]:
        spectra = spectrum(of_site.balanced, self.permutations, self.seed)
        for layer, points in enumerate(of_site.balanced):
            for number, power in enumerate(spectra.power[layer].tolist()):
                row = {"layer": layer, "mode": number + 1, "power": power}
                row["threshold"] = float(spectra.threshold[layer, number])
                yield (
                    "modes",
                    row
                    | {
                        "present": bool(spectra.present[layer, number]),
                        "present_shuffled": bool(spectra.shuffled[layer, number]),
                    },
                )
            strongest = int(np.argmax(spectra.power[layer])) + 1
            for value, (x, y) in enumerate(circle(points, strongest).tolist()):
                yield "circles", {"layer": layer, "mode": strongest, "value": value, "x": x, "y": y}
