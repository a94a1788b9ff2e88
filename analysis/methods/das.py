"""Distributed alignment search (Geiger et al. 2023): where, and in how many dimensions, a model holds a value.

At a site, the residual stream after so many blocks at one operand, an orthogonal subspace is trained such that
putting the source's part of it into the base's run gives the label that the base would have with the source's
value. What was found on pairs of train instances is judged on pairs of test instances, among the task's own labels;
also on such whose tokens no pair of the search had, since a subspace can tell single tokens apart and know no value.

The streams of all layers come from one pass; of a search only the blocks above its site are computed, from its
position on, and the labels' logits alone. All searches of one layer and position go through the model together, and
several layers and positions are searched side by side, a core each.
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

from analysis.methods.alignment import Fitting, Options, SearchResult, align
from analysis.methods.counterfactuals import TOK1, TOK2, by_tokens, draw_pairs, one_operand_accuracy, operand_tokens
from analysis.methods.forward_from import ForwardFrom
from analysis.methods.hooks import untrained
from analysis.methods.interchange import Alignment, Streams, interchange
from analysis.methods.side_by_side import one_core, side_by_side
from analysis.methods.subspaces import Basis, random_basis
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from analysis.stats import wilson
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task

METHOD = "das"
VERSION = 4
JUDGES = 4  # of the pairs to train on, one to so many others that judge
# At TOK1 the model has read one operand. At TOK2 it may still hold each, or what comes of them.
QUESTIONS = ((TOK1, "first"), (TOK2, "first"), (TOK2, "second"), (TOK2, "result"))


def method(options: Options) -> Method:
    """The analysis of one checkpoint, to the table `sites`.

    Columns: task, weights (`trained`, or `untrained` as a control), subspace (`found`, or `random` as a control),
    layer, position, variable, dimension, accuracy on held-out pairs with the ends `low` and `high` of its Wilson
    interval, pairs; the same on pairs of tokens that the search did not see, `unseen` (NaN where the task has too few);
    what the search came to: converged, updates, and judged, the accuracy on other pairs of the train half, by which a
    site can be chosen; and what to compare with in this model: no_swap, the accuracy of changing nothing, one_operand,
    that of knowing one operand, and full_swap, that of exchanging the whole stream at the site.

    Raises:
        UserError: an option out of its range.
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
    upper = ForwardFrom(model, task.label_tokens, operand_tokens(task, np.arange(len(task.triples)))[:, TOK1].numpy())
    pairs = {question: _pairs(upper, task, question, options) for question in QUESTIONS}
    # The lowest layers take longest: as many blocks as are above them.
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
    found = dict(zip(places, side_by_side(of_place, places, workers), strict=True))
    return pd.DataFrame([row for place in sorted(found) for row in found[place]])


@dataclass(frozen=True)
class _Pairs:
    """The pairs of one question.

    Attributes:
        fitting: of the train half.
        held_out: of the test half.
        unseen: of the test half and of tokens that are in none of the others; None if the task has too few.
        one_operand: the accuracy on held-out pairs of knowing one operand.
    """

    fitting: Fitting
    held_out: Streams
    unseen: Streams | None
    one_operand: float


def _pairs(upper: ForwardFrom, task: Task, question: tuple[int, str], options: Options) -> _Pairs:
    position, variable = question
    [train, _], [test, others] = (by_tokens(task, ids) for ids in (task.train_ids, task.test_ids))
    fitting = [
        Streams.of(upper, draw_pairs(task, variable, train, n, purpose), position)
        for n, purpose in ((options.pairs, "das train"), (-(-options.pairs // JUDGES), "das judge"))
    ]
    held_out = draw_pairs(task, variable, test, options.pairs, "das held out")
    unseen = None
    with suppress(UserError):  # too few tokens for a pair
        unseen = Streams.of(upper, draw_pairs(task, variable, others, options.pairs, "das unseen"), position)
    return _Pairs(
        Fitting(*fitting), Streams.of(upper, held_out, position), unseen, one_operand_accuracy(task, held_out)
    )


def _search_place(
    upper: ForwardFrom,
    task: Task,
    position: int,
    layer: int,
    pairs: Mapping[str, _Pairs],
    options: Options,
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    """The rows of one layer and position, of each variable that pairs are given of."""
    width = int(upper.model.config.hidden_size)
    asked = [
        (Alignment(layer, position, variable), dimension) for variable in pairs for dimension in options.dimensions
    ]
    random = [
        SearchResult(random_basis(width, dimension, f"{task.name} {layer} {position} {site.variable}"), np.nan, np.nan)
        for site, dimension in asked
    ]
    found = align(upper, task, asked, [pairs[site.variable].fitting for site, _ in asked], options, check)
    full_swap = {
        variable: interchange(upper, Alignment(layer, position, variable), of.held_out, torch.eye(width))[0]
        for variable, of in pairs.items()
    }
    rows = []
    for subspace, of_subspace in (("found", found), ("random", random)):
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
                | _accuracy(upper, site, of.held_out, one.basis, ("accuracy", "low", "high", "pairs"))
                | _accuracy(upper, site, of.unseen, one.basis, ("unseen", "unseen_low", "unseen_high", "unseen_pairs"))
                | search
                | bounds
                | {"full_swap": full_swap[site.variable]}
            )
    return rows


def _accuracy(
    upper: ForwardFrom, site: Alignment, pairs: Streams | None, basis: Basis, names: tuple[str, str, str, str]
) -> dict[str, Any]:
    """The accuracy, the ends of its interval, and of how many pairs."""
    if pairs is None:
        return dict(zip(names, (np.nan, np.nan, np.nan, 0), strict=True))
    n, accuracy = len(pairs.label), interchange(upper, site, pairs, basis)[0]
    return dict(zip(names, (accuracy, *wilson(accuracy, n), n), strict=True))


def parse_dimensions(text: str) -> tuple[int, ...]:
    """Numbers joined by commas.

    Raises:
        UserError: something else.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"--dimensions: {text!r} is not numbers joined by commas, as 1,2,4") from None
