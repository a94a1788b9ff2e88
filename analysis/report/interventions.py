"""Activation patching and alignment search in the report and on the command line: figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.figures.interventions import MEASURES, layers, over_steps, question_label, questions, reach, sites
from analysis.figures.patching_sizes import across_models
from analysis.methods.das import best_place
from analysis.read.run_labels import file_part
from analysis.read.store import last_step, rows
from analysis.report.page import Drawing, Section, Table, with_interval
from analysis.stats import wilson

PATCHING_TITLE = "Which layers' MLPs the task depends on"
DAS_TITLE = "Where the values are held"
_ABOUT_PATCHING = (
    "Activation patching exchanges the output of one layer's MLP (counted from 0) between two instances with different "
    "labels, a base and a source. The logit difference is the logit of the base's label minus that of the source's. "
    "Its fall is how much lower it is on the base if the MLP gives its output on the source. Recovered is how much "
    "higher it is on the source if the MLP gives its output on the base.",
)
_ABOUT_DAS = (
    "Distributed alignment search looks for an orthogonal subspace of the residual stream that holds a value, after a "
    "number of blocks (0: the embedding) and at one token. The base's part of the stream in the subspace is replaced "
    "by the source's. The model should then give the label that the base would have with the source's operand or "
    "result. Interchange accuracy is the share of held-out pairs on which it does, among the task's own labels. Up to "
    "half of the pairs keep their label, so changing nothing (no swap) is sometimes right, and so is knowing one "
    "operand. A subspace can also tell single tokens apart, even in an untrained model. So each subspace is tested "
    "again on pairs of tokens that its search did not use.",
)


def patching_section(table: pd.DataFrame) -> Section | None:
    """The section for a table `layers` joined over checkpoints; None if it is empty."""
    if table.empty:
        return None
    drawings = []
    last = last_step(table)
    for task in dict.fromkeys(last["task"]):
        of_task = rows(last, task=task, weights="trained")
        if (figure := across_models(of_task)) is not None:
            caption = (
                f"{task}: the effect of each layer's MLP at every run's last checkpoint, all models on one scale, "
                "with 95% intervals."
            )
            drawings.append(Drawing(f"layers-models-{task}", figure, caption, of_task))
    checkpoints = list(_last_checkpoints(table))
    for of in checkpoints:
        caption = (
            f"{of.words}: effect of exchanging one layer's MLP, mean over pairs with 95% bootstrap intervals that hold "
            "for all layers at once. Dashed: the whole input exchanged. Grey: an untrained model of the same "
            "shape. All runs of a task share one scale."
        )
        scale = reach(rows(last, task=of.last["task"].iloc[0]))
        drawings.append(Drawing(f"layers-{of.file}", layers(of.last, of.words, scale), caption, of.last))
        drawings += _over_steps(of, "layers", {MEASURES[0][1]: rows(of.all, weights="trained")}, "effect")
    shown = [
        Table(
            "The MLP with the largest effect (95% CI)", [_largest(of) for of in checkpoints], ("checkpoint", "above 0")
        )
    ]
    return Section(PATCHING_TITLE, _ABOUT_PATCHING, tables=shown, drawings=drawings)


def das_section(table: pd.DataFrame) -> Section | None:
    """The section for a table `sites` joined over checkpoints; None if it is empty."""
    if table.empty:
        return None
    drawings, best = [], []
    for of in _last_checkpoints(table):
        caption = (
            f"{of.words}: interchange accuracy on held-out pairs over layers, tokens and dimensions, of subspaces "
            "found by search and of controls, on different pairs; 95% intervals, which count no more pairs than "
            "instances, reach at most "
            f"{(of.last['high'] - of.last['low']).max() / 2:.2f} to either side. In the titles, for the trained model: "
            "the accuracy of changing nothing, and of knowing one operand. Asterisk: the search did not converge."
        )
        drawings.append(Drawing(f"sites-{of.file}", sites(of.last, of.words), caption, of.last))
        searched = rows(of.all, weights="trained", subspace="found")
        widest = rows(searched, dimension=searched["dimension"].max())
        panels = {
            question_label(*question): rows(widest, position=question[0], variable=question[1])
            for question in questions(searched)
        }
        drawings += _over_steps(of, "sites", panels, "accuracy")
        best += [_best_site(of, question) for question in questions(searched)]
    shown = [Table("Best place of each value, chosen on train pairs", best, ("checkpoint", "value", "above controls"))]
    return Section(DAS_TITLE, _ABOUT_DAS, tables=shown, drawings=drawings)


def _largest(of: _Checkpoints) -> dict[str, str]:
    """What exchanging the MLP with the largest effect does, and whether the model knows the task at all."""
    first = rows(of.last, weights="trained", rank=1).iloc[0]
    control = rows(of.last, weights="untrained", rank=1)["effect"].iloc[0]
    drop = (float(first["logprob_drop"]), float(first["logprob_drop_low"]), float(first["logprob_drop_high"]))
    answered, pairs = float(first["answered"]), int(first["pairs"])
    return {
        "checkpoint": of.words,
        "layer": str(first["layer"]),
        "effect (logits)": with_interval(first["effect"], first["effect_low"], first["effect_high"], ".3g"),
        "above 0": "yes" if first["effect_low"] > 0 else "no",
        "all of the input": f"{first['whole']:.3g}",
        "untrained model": f"{control:.3g}",
        "log-probability drop (nats)": with_interval(*drop, ".3g"),
        "pairs answered right": with_interval(answered, *wilson(answered, pairs), ".2f"),
    }


def _best_site(of: _Checkpoints, question: tuple[int, str]) -> dict[str, str]:
    """The site where a value is exchanged best, with controls."""
    best = best_place(of.last, question)
    sites = rows(of.last, subspace="found", position=question[0], variable=question[1])
    converged = rows(sites, weights="trained")["converged"].to_numpy(bool)
    return {
        "checkpoint": of.words,
        "value": question_label(*question),
        "after blocks": str(int(best["layer"])),
        "dimensions": str(int(best["dimension"])),
        "accuracy (95% CI)": with_interval(best["accuracy"], best["low"], best["high"]),
        "above controls": "yes" if best["low"] > best["control"] else "no",
        "no swap": f"{best['no_swap']:.3f}",
        "one operand": f"{best['one_operand']:.3f}",
        "untrained model": with_interval(best["untrained"], None, None),
        "full swap": f"{best['full_swap']:.3f}",
        "on tokens not searched with": with_interval(best["unseen"], None, None),
        "searches converged": f"{converged.sum()} of {len(converged)}",
    }


@dataclass(frozen=True)
class _Checkpoints:
    """The results for one task in one run.

    Attributes:
        words: task and last checkpoint, for captions.
        file: the same, for file names.
        all: rows of all checkpoints.
        last: rows of the last checkpoint.
    """

    words: str
    file: str
    all: pd.DataFrame
    last: pd.DataFrame


def _last_checkpoints(table: pd.DataFrame) -> Iterator[_Checkpoints]:
    """The results of each task of each run, with those of its last checkpoint."""
    for place, group in table.groupby(["run", "task"], sort=False):
        assert isinstance(place, tuple)
        run, task = place
        last, alone = int(group["step"].max()), int(group["step"].max()) < 0  # a model outside a run
        words, file = f"{task}, {run}", f"{task}-{file_part(run)}"
        yield _Checkpoints(
            words if alone else f"{words}, step {last}",
            file if alone else f"{file}-step{last}",
            group,
            rows(group, step=last),
        )


def _over_steps(of: _Checkpoints, name: str, panels: Mapping[str, pd.DataFrame], column: str) -> Iterator[Drawing]:
    """If there are several checkpoints, a figure of one column over layers and steps.

    Args:
        of: the results of one task in one run.
        name: of the drawing's file.
        panels: rows to draw, by the title of their panel.
        column: `accuracy` or `effect`.
    """
    if of.all["step"].nunique() > 1:
        task, run = of.all["task"].iloc[0], of.all["run"].iloc[0]
        what = "interchange accuracy in the most dimensions searched" if column == "accuracy" else "the effect"
        caption = f"{task}, {run}: {what}, for every layer over the analyzed checkpoints."
        figure = over_steps(panels, column, f"{task}, {run}")
        yield Drawing(f"{name}-steps-{task}-{file_part(run)}", figure, caption, pd.concat(list(panels.values())))
