"""Distributed alignment search (Geiger et al. 2023): where, and in how many dimensions, a model holds a value.

A site is a layer and a position, the residual stream after a number of blocks at one operand. At each site an
orthogonal subspace is trained so that replacing the base's part in it by the source's gives the label that the base
would have with the source's value. The subspace is trained on pairs of train instances and tested on pairs of test
instances, among the task's own labels. A second test uses tokens that no pair of the search contained, since a subspace
can tell single tokens apart without holding a value.

One forward pass gives the streams of all layers. A search computes only the blocks above its site, from its position
on, and only the labels' logits. All searches at one site share forward passes. Several sites are searched in parallel,
one core each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis.methods.counterfactuals import (
    TOK1,
    TOK2,
    Pairs,
    by_tokens,
    draw_pairs,
    one_operand_accuracy,
    operand_tokens,
)
from analysis.methods.das_search import Fitting, SearchOptions, SearchResult, align
from analysis.methods.forward_from import ForwardFrom
from analysis.methods.hooks import untrained
from analysis.methods.interchange import Alignment, Streams, interchange
from analysis.methods.subspaces import Basis, random_basis
from analysis.methods.threads import one_core, side_by_side
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from analysis.stats import wilson
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task

METHOD = "das"
VERSION = 5
HELD_OUT = ("accuracy", "low", "high", "pairs")
UNSEEN = ("unseen", "unseen_low", "unseen_high", "unseen_pairs")
JUDGES = 4  # one judging pair for this many train pairs
# At TOK1 the model has read one operand. At TOK2 it may hold either operand, or the result.
QUESTIONS = ((TOK1, "first"), (TOK2, "first"), (TOK2, "second"), (TOK2, "result"))


def method(options: SearchOptions) -> Method:
    """The analysis of one checkpoint, which writes the table `sites`.

    Columns that say what a row is about: task, weights (`trained`, or `untrained` as a control), subspace (`found`, or
    `random` as a control), layer, position, variable, dimension. Columns of results: accuracy on held-out pairs with
    the ends `low` and `high` of its Wilson interval, and pairs (the number of different ones); the same with the
    prefix `unseen`, on pairs of tokens that the search did not see (NaN if the task has too few). Pairs share
    instances, so the intervals are of as many answers as there are pairs or instances, whichever are fewer. Further
    columns are converged, updates, and judged (accuracy on the judging pairs, by which a site may be chosen). Columns
    to compare with, all for this model: no_swap (accuracy if nothing is exchanged), one_operand (accuracy from knowing
    one operand) and full_swap (accuracy if the whole stream at the site is exchanged).

    Raises:
        UserError: an option is out of its range.
    """
    options.check()

    def compute(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
        models = {"trained": model, "untrained": untrained(model)} if options.controls else {"trained": model}
        searches = [(weights, task) for weights in models for task in checkpoint.tasks]
        tables = []
        for number, (weights, task) in enumerate(searches):

            def within(share: float, before: int = number) -> None:
                report((before + share) / len(searches))

            tables.append(search(models[weights], task, options, within).assign(weights=weights))
        return {"sites": pd.concat(tables, ignore_index=True)}

    return Method(METHOD, compute, {**asdict(options), "dimensions": list(options.dimensions)}, version=VERSION)


def best_place(sites: pd.DataFrame, question: tuple[int, str]) -> dict[str, Any]:
    """The site where one checkpoint's value of one task is exchanged best, and `control`, the best of its controls.

    The site is chosen on pairs of the train half, so the held-out accuracy is not the largest of many. The controls are
    to change nothing, to know one operand and, if it was searched, the best site of an untrained model.

    Args:
        sites: the table `sites` of one checkpoint and task.
        question: position and variable, one of `QUESTIONS`.

    Returns:
        The site's row, with `control` and `untrained` (NaN if not searched).
    """
    searched = sites[
        (sites["subspace"] == "found") & (sites["position"] == question[0]) & (sites["variable"] == question[1])
    ].set_index("weights")
    mine, control = searched.loc[["trained"]], searched[searched.index == "untrained"]
    best: dict[str, Any] = mine.iloc[int(mine["judged"].to_numpy().argmax())].to_dict()
    untrained = np.nan if control.empty else float(control["accuracy"].iloc[int(control["judged"].to_numpy().argmax())])
    controls = [best["no_swap"], best["one_operand"], untrained]
    return best | {"untrained": untrained, "control": float(np.nanmax(controls))}


def search(model: PreTrainedModel, task: Task, options: SearchOptions, report: Report = lambda _: None) -> pd.DataFrame:
    """Search at all sites, for all variables and dimensions of one task; see `method` for the columns.

    Args:
        model: in evaluation mode.
        task: whose values are sought.
        options: checked options of the search.
        report: called with the fraction of the work that is done.

    Raises:
        UserError: more dimensions than the model is wide.
    """
    model.requires_grad_(False)
    width = int(model.config.hidden_size)
    if max(options.dimensions) > width:
        raise UserError(f"--dimensions: {max(options.dimensions)} is more than the model's width {width}")
    cores = torch.get_num_threads() if model.device.type == "cpu" else 1  # one search keeps a GPU busy
    with one_core():
        return _search(model, task, options, cores, report)


def _search(model: PreTrainedModel, task: Task, options: SearchOptions, cores: int, report: Report) -> pd.DataFrame:
    upper = ForwardFrom(model, task.label_tokens, operand_tokens(task, np.arange(len(task.triples)))[:, TOK1].numpy())
    pairs = {question: _pairs(upper, task, question, options) for question in QUESTIONS}
    # The lowest layers take longest, since all blocks above them are computed. So they go first.
    places = [(position, layer) for layer in range(upper.depth + 1) for position in (TOK2, TOK1)]
    above = {place: upper.depth + 1 - place[1] for place in places}
    finished: list[int] = []

    def of_place(own: ForwardFrom, place: tuple[int, int], check: Callable[[], None]) -> list[dict[str, Any]]:
        position, layer = place
        of_position = {variable: of for (at, variable), of in pairs.items() if at == position}
        rows = _search_place(own, task, position, layer, of_position, options, check)
        finished.append(above[place])
        report(sum(finished) / sum(above.values()))
        return rows

    workers = [upper, *(upper.replica() for _ in range(min(cores, len(places)) - 1))]
    rows_of = dict(zip(places, side_by_side(of_place, places, workers), strict=True))
    return pd.DataFrame([row for place in sorted(rows_of) for row in rows_of[place]])


@dataclass(frozen=True)
class _Pairs:
    """The pairs for one position and variable.

    Attributes:
        fitting: pairs of the train half, to search with.
        held_out: different pairs of the test half.
        unseen: the same, with tokens that no other pair has; None if the task has too few tokens.
        answers: of both, the number of answers that their intervals are of.
        one_operand: accuracy on `held_out` from knowing one operand.
    """

    fitting: Fitting
    held_out: Streams
    unseen: Streams | None
    answers: tuple[int, int]
    one_operand: float


def _pairs(upper: ForwardFrom, task: Task, question: tuple[int, str], options: SearchOptions) -> _Pairs:
    position, variable = question
    [train, _], [test, others] = (by_tokens(task, ids) for ids in (task.train_ids, task.test_ids))
    fitting = [
        Streams.of(upper, draw_pairs(task, variable, train, n, purpose), position)
        for n, purpose in ((options.pairs, "das train"), (-(-options.pairs // JUDGES), "das judge"))
    ]
    held_out = draw_pairs(task, variable, test, options.pairs, "das held out", distinct=True)
    unseen = None
    with suppress(UserError):  # there are too few tokens for a pair
        unseen = draw_pairs(task, variable, others, options.pairs, "das unseen", distinct=True)
    return _Pairs(
        Fitting(*fitting),
        Streams.of(upper, held_out, position),
        None if unseen is None else Streams.of(upper, unseen, position),
        (answers(held_out), 0 if unseen is None else answers(unseen)),
        one_operand_accuracy(task, held_out),
    )


def answers(pairs: Pairs) -> int:
    """The number of answers that an interval of their accuracy is of. Pairs with a common instance are alike."""
    return min(len(pairs.label), pairs.instances)


def _search_place(
    upper: ForwardFrom,
    task: Task,
    position: int,
    layer: int,
    pairs: Mapping[str, _Pairs],
    options: SearchOptions,
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    """Table rows of one layer and position, for each variable in `pairs`."""
    width = int(upper.model.config.hidden_size)
    asked = [
        (Alignment(layer, position, variable), dimension) for variable in pairs for dimension in options.dimensions
    ]
    random = [
        SearchResult(random_basis(width, dimension, f"{task.name} {layer} {position} {site.variable}"), np.nan, np.nan)
        for site, dimension in asked
    ]
    aligned = align(upper, task, asked, [pairs[site.variable].fitting for site, _ in asked], options, check)
    full_swap = {
        variable: interchange(upper, Alignment(layer, position, variable), of.held_out, torch.eye(width))[0]
        for variable, of in pairs.items()
    }
    rows = []
    for subspace, of_subspace in (("found", aligned), ("random", random)):
        for (site, dimension), one in zip(asked, of_subspace, strict=True):
            check()
            of = pairs[site.variable]
            about = {"task": task.name, **asdict(site), "dimension": dimension, "subspace": subspace}
            search = {
                "judged": one.accuracy,
                "updates": one.updates,
                "converged": one.converged or subspace == "random",
            }
            bounds = {"no_swap": of.held_out.no_swap, "one_operand": of.one_operand}
            rows.append(
                about
                | _accuracy(upper, site, of.held_out, of.answers[0], one.basis, HELD_OUT)
                | _accuracy(upper, site, of.unseen, of.answers[1], one.basis, UNSEEN)
                | search
                | bounds
                | {"full_swap": full_swap[site.variable]}
            )
    return rows


def _accuracy(
    upper: ForwardFrom,
    site: Alignment,
    pairs: Streams | None,
    answers: int,
    basis: Basis,
    names: tuple[str, str, str, str],
) -> dict[str, Any]:
    """The accuracy, the two ends of its interval and the number of pairs, under the given names."""
    if pairs is None:
        return dict(zip(names, (np.nan, np.nan, np.nan, 0), strict=True))
    n, accuracy = len(pairs.label), interchange(upper, site, pairs, basis)[0]
    return dict(zip(names, (accuracy, *wilson(accuracy, answers), n), strict=True))


def parse_dimensions(text: str) -> tuple[int, ...]:
    """Parse whole numbers joined by commas, such as `1,2,4`.

    Raises:
        UserError: the text is something else.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"--dimensions: {text!r} is not numbers joined by commas, as 1,2,4") from None
