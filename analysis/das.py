"""Distributed alignment search (Geiger et al. 2023): where, and in how many dimensions, a model holds a value.

At a site, the residual stream after so many blocks at one operand, an orthogonal subspace is trained such that
putting the source's part of it into the base's run gives the label that the base would have with the source's
value. What was found on pairs of train instances is judged on pairs of test instances, among the task's own labels.

The streams of all layers come from one pass; of a search only the blocks above its site are computed, from its
position on, and the labels' logits alone. All searches of one layer and position go through the model together, and
several layers and positions are searched side by side, a core each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis.alignment import Options, Site, Streams, align, interchange_accuracy, random_basis
from analysis.checkpoints import Subject
from analysis.counterfactuals import TOK1, TOK2, draw_pairs, operands
from analysis.hooks import untrained
from analysis.results import Method, Report, Tables
from analysis.runs import wilson
from analysis.side_by_side import one_core, side_by_side
from analysis.upper_part import UpperPart
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task

METHOD = "das"
VERSION = 3
# At TOK1 the model has read one operand. At TOK2 it may still hold each, or what comes of them.
QUESTIONS = ((TOK1, "first"), (TOK2, "first"), (TOK2, "second"), (TOK2, "result"))


def method(options: Options) -> Method:
    """The analysis of one checkpoint, to the table `sites`.

    Columns: task, weights (`trained`, or `untrained` as a control), subspace (`found`, or `random` as a control),
    layer, position, variable, dimension, accuracy on held-out pairs with the ends `low` and `high` of its Wilson
    interval, pairs, and what bounds it in this model: nothing, the accuracy of changing nothing, and everything, that
    of exchanging the whole stream at the site.

    Raises:
        UserError: an option that cannot be.
    """
    options.check()

    def compute(model: PreTrainedModel, subject: Subject, report: Report) -> Tables:
        models = {"trained": model, "untrained": untrained(model)} if options.controls else {"trained": model}
        searches = [(weights, task) for weights in models for task in subject.tasks]
        tables = []
        for number, (weights, task) in enumerate(searches):

            def within(share: float, before: int = number) -> None:
                report((before + share) / len(searches))

            tables.append(search(models[weights], task, options, within).assign(weights=weights))
        return {"sites": pd.concat(tables, ignore_index=True)}

    return Method(METHOD, compute, {**asdict(options), "dimensions": list(options.dimensions)}, version=VERSION)


def search(model: PreTrainedModel, task: Task, options: Options, report: Report = lambda _: None) -> pd.DataFrame:
    """All sites, variables and dimensions of one task; see `method`. `report` is told how far it is.

    Raises:
        UserError: more dimensions than the model is wide.
    """
    model.requires_grad_(False)
    width = int(model.config.hidden_size)
    if max(options.dimensions) > width:
        raise UserError(f"--dimensions: {max(options.dimensions)} is more than the model's width {width}")
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1  # a GPU is busy with one
    with one_core():
        return _search(model, task, options, cores, report)


def _search(model: PreTrainedModel, task: Task, options: Options, cores: int, report: Report) -> pd.DataFrame:
    upper = UpperPart(model, task.label_tokens, operands(task, np.arange(len(task.instances)))[:, TOK1].numpy())
    pairs = {question: _train_and_held_out(upper, task, question, options) for question in QUESTIONS}
    # The lowest layers take longest: as many blocks as are above them.
    places = [(position, layer) for layer in range(upper.depth + 1) for position in (TOK2, TOK1)]
    above = {place: upper.depth + 1 - place[1] for place in places}
    finished: list[int] = []

    def of_place(own: UpperPart, place: tuple[int, int], check: Callable[[], None]) -> list[dict[str, Any]]:
        position, layer = place
        of_position = {variable: both for (at, variable), both in pairs.items() if at == position}
        rows = _search_place(own, task, position, layer, of_position, options, check)
        finished.append(above[place])
        report(sum(finished) / sum(above.values()))
        return rows

    workers = [upper, *(upper.twin() for _ in range(min(cores, len(places)) - 1))]
    found = dict(zip(places, side_by_side(of_place, places, workers), strict=True))
    return pd.DataFrame([row for place in sorted(found) for row in found[place]])


def _train_and_held_out(
    upper: UpperPart, task: Task, question: tuple[int, str], options: Options
) -> tuple[Streams, Streams]:
    position, variable = question
    train = draw_pairs(task, variable, task.train_ids, options.pairs, "das train")
    held_out = draw_pairs(task, variable, task.test_ids, options.pairs, "das held out")
    return Streams.of(upper, train, position), Streams.of(upper, held_out, position)


def _search_place(
    upper: UpperPart,
    task: Task,
    position: int,
    layer: int,
    pairs: Mapping[str, tuple[Streams, Streams]],
    options: Options,
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    """The rows of one layer and position; of each variable, train and held-out pairs are given."""
    width = int(upper.model.config.hidden_size)
    asked = [(variable, dimension) for variable in pairs for dimension in options.dimensions]
    sites = [Site(layer, position, variable) for variable, _ in asked]
    starts = [random_basis(width, d, f"{task.name} {layer} {position} {variable}") for variable, d in asked]
    found = align(upper, task, sites, [pairs[variable][0] for variable, _ in asked], starts, options, check)
    identity = torch.eye(width)
    everything = {
        variable: interchange_accuracy(upper, Site(layer, position, variable), pairs[variable][1], identity)
        for variable in pairs
    }
    rows = []
    for subspace, bases in (("found", found), ("random", starts)):
        for (variable, dimension), site, basis in zip(asked, sites, bases, strict=True):
            check()
            held_out = pairs[variable][1]
            accuracy, n = interchange_accuracy(upper, site, held_out, basis), len(held_out.label)
            low, high = wilson(accuracy * n, n)
            about = {"task": task.name, **asdict(site), "dimension": dimension, "subspace": subspace}
            result = {"accuracy": accuracy, "low": low, "high": high, "pairs": n}
            rows.append(about | result | {"nothing": held_out.nothing, "everything": everything[variable]})
    return rows


def parse_dimensions(text: str) -> tuple[int, ...]:
    """Numbers joined by commas.

    Raises:
        UserError: something else.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"--dimensions: {text!r} is not numbers joined by commas, as 1,2,4") from None
