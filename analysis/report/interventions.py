"""Activation patching and alignment search in the report and on the command line: figures and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.figures.interventions import MEASURES, layers, over_steps, question_label, questions, reach, sites
from analysis.figures.patching_sizes import across_models
from analysis.read.labels import file_part
from analysis.read.store import last_step, rows
from analysis.report.page import Drawing, Section
from analysis.stats import wilson
from olmo_inject.words import counted

PATCHING_TITLE = "Which layers' MLPs the task depends on"
DAS_TITLE = "Where the values are held"
_ABOUT_PATCHING = (
    "Activation patching: for pairs of instances with different labels, a base and a source, the output of one layer's "
    "MLP (numbered from 0) is exchanged between their two runs through the model. The logit difference is that of the "
    "base's own label less the source's. Its fall: how much lower it is on the base when the MLP says what it says on "
    "the source. Recovered: how much higher it is on the source when the MLP says what it says on the base.",
)
_ABOUT_DAS = (
    "Distributed alignment search: after so many blocks (0: the embedding), at one token, an orthogonal subspace of "
    "the residual stream is sought such that a run on one instance (the base), with the part of its stream that lies "
    "in the subspace taken from a run on another (the source), answers as the base would with the source's operand or "
    "result. Interchange accuracy is the share of held-out pairs on which it does, among the task's own labels. Up to "
    "half of the pairs keep their label, so that changing nothing is right at times; so is who knows one operand: how "
    "often is told beside. A subspace can also tell single tokens apart, in an untrained model too: so each is judged "
    "again on pairs of tokens that were in no pair of its search.",
)


def patching_section(table: pd.DataFrame) -> Section | None:
    """The section of a table `layers` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    drawings, findings = [], []
    last = last_step(table)
    for task in dict.fromkeys(last["task"]):
        if (figure := across_models(rows(last, task=task, weights="trained"))) is not None:
            caption = (
                f"{task}: the effect of each layer's MLP at every run's last checkpoint, all models on one scale, "
                "with 95% intervals."
            )
            drawings.append(Drawing(f"layers-models-{task}", figure, caption))
    for of in _last_checkpoints(table):
        caption = (
            f"{of.words}: mean over pairs, with 95% bootstrap intervals that hold for all layers at once, of "
            "exchanging one layer's MLP. Dashed: exchanging all of the input. Grey: the same model with random "
            "weights. All runs of a task have one scale."
        )
        scale = reach(rows(last, task=of.last["task"].iloc[0]))
        drawings.append(Drawing(f"layers-{of.file}", layers(of.last, of.words, scale), caption))
        drawings += _over_steps(of, "layers", {MEASURES[0][1]: rows(of.all, weights="trained")}, "effect")
        findings.append(_largest(of))
    return Section(PATCHING_TITLE, _ABOUT_PATCHING, findings, drawings=drawings)


def das_section(table: pd.DataFrame) -> Section | None:
    """The section of a table `sites` joined over checkpoints, or None where it is empty."""
    if table.empty:
        return None
    drawings, findings = [], []
    for of in _last_checkpoints(table):
        caption = (
            f"{of.words}: interchange accuracy on held-out pairs over layers, tokens and dimensions, of subspaces "
            "found by search and of controls; 95% intervals reach at most "
            f"{(of.last['high'] - of.last['low']).max() / 2:.2f} to either side. In the titles, for the trained model: "
            "the accuracy of changing nothing, and of knowing one operand. An asterisk: the search had not converged."
        )
        drawings.append(Drawing(f"sites-{of.file}", sites(of.last, of.words), caption))
        found = rows(of.all, weights="trained", subspace="found")
        widest = rows(found, dimension=found["dimension"].max())
        panels = {
            question_label(*question): rows(widest, position=question[0], variable=question[1])
            for question in questions(found)
        }
        drawings += _over_steps(of, "sites", panels, "accuracy")
        findings += [_best_site(of, question) for question in questions(found)]
        findings += _not_converged(of)
    return Section(DAS_TITLE, _ABOUT_DAS, findings, drawings=drawings)


def _largest(of: _Checkpoints) -> str:
    """What the layer of the largest effect does, and whether the model knows the task at all."""
    first = rows(of.last, weights="trained", rank=1).iloc[0]
    control = rows(of.last, weights="untrained", rank=1)["effect"].iloc[0]
    found = f"the MLP of layer {first['layer']} has the largest effect"
    if first["effect_low"] <= 0:
        found = f"no MLP's effect is above zero (95% CI); the largest is of layer {first['layer']}"
    drop, low, high = first[["logprob_drop", "logprob_drop_low", "logprob_drop_high"]]
    knows = f"The model itself prefers a base's own label to the source's in {first['answered']:.0%} of the pairs"
    if wilson(first["answered"] * first["pairs"], int(first["pairs"]))[0] <= 0.5:
        knows += ", no more than chance: there is no task here to locate"
    return (
        f"{of.words}: {found}: {first['effect']:.3g} logits "
        f"({first['effect_low']:.3g} to {first['effect_high']:.3g}, for the largest of all layers) of "
        f"{first['whole']:.3g} for all of the input "
        f"(random weights: {control:.3g}); fall of the log-probability of the base's label {drop:.3g} nats ({low:.3g} to {high:.3g}). {knows}."
    )


def _best_site(of: _Checkpoints, question: tuple[int, str]) -> str:
    """Where a value is exchanged best, beside what knows less of it and an untrained model give.

    The site is chosen on pairs of the train half, so that the accuracy on held-out pairs is not the largest of many.
    """
    found = rows(of.last, subspace="found", position=question[0], variable=question[1])
    mine, control = rows(found, weights="trained"), rows(found, weights="untrained")
    best = mine.loc[mine["judged"].idxmax()]
    where = f"{counted(int(best['layer']), 'block')} in {counted(int(best['dimension']), 'dimension')}"
    beyond = max(best["no_swap"], best["one_operand"])
    untrained = ""
    if not control.empty:
        of_control = control.loc[control["judged"].idxmax()]
        untrained = f", {of_control['accuracy']:.3f} in an untrained model at its best site{_unseen(of_control)}"
        beyond = max(beyond, of_control["accuracy"])
    verdict = "above" if best["low"] > beyond else "not above (95% CI)"
    return (
        f"{of.words}: {question_label(*question)} is best exchanged after {where}, of {len(mine)} searches the best on "
        f"pairs of the train half: {best['accuracy']:.3f} ({best['low']:.3f} to {best['high']:.3f}) of held-out pairs"
        f"{_unseen(best)}, {verdict} what knows less: {best['no_swap']:.3f} for changing nothing, "
        f"{best['one_operand']:.3f} for knowing one operand{untrained}. Exchanging the whole stream there: "
        f"{best['full_swap']:.3f}."
    )


def _unseen(row: pd.Series) -> str:
    """The accuracy on pairs of tokens that the search did not see, where the task has enough tokens."""
    if np.isnan(row["unseen"]):
        return ""
    return f" ({row['unseen']:.3f} on {row['unseen_pairs']:,} pairs of tokens not searched with)"


def _not_converged(of: _Checkpoints) -> Iterator[str]:
    found = rows(of.last, subspace="found")
    if left := int((~found["converged"].to_numpy(bool)).sum()):
        yield (
            f"{of.words}: {left} of {counted(len(found), 'subspace')} had not converged after "
            f"{counted(int(found['updates'].max()), 'update')}; more may be there than was found (`--updates`)."
        )


@dataclass(frozen=True)
class _Checkpoints:
    """What was found of one task in one run.

    Attributes:
        words: of which task and checkpoint the last is, for people.
        file: the same, in the names of files.
        all: the rows of all checkpoints.
        last: those of the last.
    """

    words: str
    file: str
    all: pd.DataFrame
    last: pd.DataFrame


def _last_checkpoints(table: pd.DataFrame) -> Iterator[_Checkpoints]:
    """Each task of each run, by what is left of it at the last checkpoint."""
    for place, group in table.groupby(["run", "task"], sort=False):
        assert isinstance(place, tuple)
        run, task = place
        last, alone = int(group["step"].max()), int(group["step"].max()) < 0  # a model on its own
        words, file = f"{task}, {run}", f"{task}-{file_part(run)}"
        yield _Checkpoints(
            words if alone else f"{words}, step {last}",
            file if alone else f"{file}-step{last}",
            group,
            rows(group, step=last),
        )


def _over_steps(of: _Checkpoints, name: str, panels: Mapping[str, pd.DataFrame], column: str) -> Iterator[Drawing]:
    """Where there are several checkpoints, a column over layers and steps; each panel a title and its rows."""
    if of.all["step"].nunique() > 1:
        task, run = of.all["task"].iloc[0], of.all["run"].iloc[0]
        what = "interchange accuracy in the most dimensions searched" if column == "accuracy" else "the effect"
        caption = f"{task}, {run}: {what}, of every layer over the checkpoints analysed."
        figure = over_steps(panels, column, f"{task}, {run}")
        yield Drawing(f"{name}-steps-{task}-{file_part(run)}", figure, caption)
