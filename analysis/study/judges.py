"""What is measured for each kind of claim: from the cells of a sweep, a verdict and a number in words (PLAN.md)."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.stats import spearman
from analysis.study.measures import LEARNED_AUC
from analysis.study.statistics import (
    NOT,
    OPEN,
    PARTLY,
    REPRODUCED,
    over_cells,
    over_seeds,
    partial_spearman,
    trend,
    verdict_of,
)
from analysis.study.theory import utilities
from olmo_inject.theory.prediction.estimate import estimate_utilities

Judge = Callable[[pd.DataFrame], tuple[str, str]]

FEWEST_CELLS = 8
SMALL_CHANGE = 0.05
SMALL_CORRELATION = 0.3
NARROW = 16  # the widest of the models that learned the task beside no text of the ladder
NAMES = {  # of columns, in words
    "auc_unmirrored": "AUC",
    "accuracy_unmirrored": "accuracy",
    "often": "frequency",
    "within": "the loss among the labels",
    "gap": "the gap",
    "order": "the order probe's R2",
    "modes": "Fourier modes",
    "kept": "the share kept",
    "forgotten": "the AUC lost",
    "rest_cos_rms": "interference",
    "rest_among_rms": "interference",
    "rest_null_rms": "its null (labels permuted)",
    "rest_over_null": "interference over its null",
}


def trend_of(x: str, y: str, sign: int, within: list[str]) -> Judge:
    """Whether `y` rises (`sign` 1) or falls (-1) with `x` inside the groups that the columns `within` make."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        per_seed = trend(table, x, y, within)
        if not len(per_seed):
            return OPEN, "too few cells"
        low, high, shown = over_seeds(per_seed, "+.2f", limits=(-1, 1))
        number = f"rank correlation of {NAMES.get(y, y)} with {NAMES.get(x, x)} {shown}"
        counted = table.dropna(subset=[x, y])
        if len(counted) < len(table):
            number += f", in {len(counted)} cells of {len(per_seed)} seed{'s' * (len(per_seed) > 1)} that have one"
        return verdict_of(low, high, sign), number

    return judge


def less_interference(y: str) -> Judge:
    """Whether interference falls with width, and that with permuted labels does not (PLAN.md)."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        verdict, number = trend_of("width", y, -1, ["text"])(table)
        null, of_null = trend_of("width", "rest_null_rms", -1, ["text"])(table)
        ratio = table.assign(rest_over_null=table[y] / table["rest_null_rms"])
        _, of_ratio = trend_of("width", "rest_over_null", -1, ["text"])(ratio)
        return (NOT if verdict == null == REPRODUCED else verdict), f"{number}; {of_null}; {of_ratio}"

    return judge


def saturation(y: str, words: str) -> Judge:
    """Whether `y` falls with the residual of the common data, over widths and corpora together."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        table = table.dropna(subset=["residual", y])
        if len(table) < FEWEST_CELLS:
            return OPEN, "too few cells"
        whole = over_cells(table, ["residual", y], spearman)
        return verdict_of(whole.low, whole.high, -1), f"rank correlation of {words} with the residual {whole}"

    return judge


def forgotten(table: pd.DataFrame) -> tuple[str, str]:
    """Whether what was learned is forgotten the more, the more the text leaves to learn; seed 1 suggested it."""
    table = table.loc[table["seed"] != "s1"].dropna(subset=["residual", "forgotten"])
    if len(table) < FEWEST_CELLS:
        return OPEN, "too few cells without seed 1, which suggested it"
    whole = over_cells(table, ["residual", "forgotten"], spearman)
    number = f"rank correlation of the AUC lost with the residual {whole}, in {len(table)} cells that had "
    return verdict_of(whole.low, whole.high, 1), number + "learned it, without seed 1, which suggested it"


def one_curve(y: str, words: str) -> Judge:
    """Whether width says anything of `y` that the residual of the common data does not."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        table = table.dropna(subset=["residual", y])
        if len(table) < FEWEST_CELLS:
            return OPEN, "too few cells"
        part = over_cells(table, ["width", y, "residual"], partial_spearman)
        whole = over_cells(table, ["residual", y], spearman)
        number = f"partial rank correlation of {words} with width, residual given, {part}"
        small = max(abs(part.low), abs(part.high)) < SMALL_CORRELATION
        if small and whole.high < 0:
            return REPRODUCED, number
        return (NOT if part.low > 0 or part.high < 0 else OPEN), number

    return judge


def gap(table: pd.DataFrame) -> tuple[str, str]:
    """Whether a task is the worse the longer the gap at one long-run frequency."""
    return trend_of("gap", "within", 1, ["width"])(table.assign(gap=table["burst"].str[1:].astype(int)))


def alone_learned(table: pd.DataFrame) -> tuple[str, str]:
    """Whether the narrow models that fail beside text learn the task where nothing competes."""
    alone = table[table["control"] == "alone"]
    if alone.empty:
        return OPEN, "too few cells"
    learned = alone["auc_unmirrored"] >= LEARNED_AUC
    narrow = learned[alone["width"] <= NARROW]
    number = f"{learned.sum()} of {len(learned)} cells learn it with nothing to compete (AUC at least {LEARNED_AUC}), "
    number += f"{narrow.sum()} of {len(narrow)} of widths up to {NARROW}"
    share = learned.mean()
    return (REPRODUCED if share == 1 else NOT if share == 0 else PARTLY), number


def smaller_steps(table: pd.DataFrame) -> tuple[str, str]:
    """Whether the wider models, which do not learn the task alone at 3e-3, do so with a tenth of the step (PLAN.md)."""
    slow = table[table["control"] == "alone3e-4"]
    usual = table[(table["control"] == "alone") & table["width"].isin(slow["width"]) & table["seed"].isin(slow["seed"])]
    if slow.empty or len(slow) != len(usual):
        return OPEN, "too few cells"
    learned = [int((cells["auc_unmirrored"] >= LEARNED_AUC).sum()) for cells in (slow, usual)]
    means = [cells.groupby("width")["auc_unmirrored"].mean() for cells in (slow, usual)]
    shown = ["/".join(f"{value:.2f}" for value in of_widths) for of_widths in means]
    number = f"AUC of at least {LEARNED_AUC} in {learned[0]} of {len(slow)} cells, at 3e-3 in {learned[1]}; means by "
    number += f"width {shown[0]}, at 3e-3 {shown[1]}"
    return (REPRODUCED if learned[0] > learned[1] and (means[0] > means[1]).all() else NOT), number


def theory_ranks(y: str, by: str | None = None) -> Judge:
    """Whether the theory's utility ranks cells better than the frequency or the width alone does."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        table = table.assign(utility=utilities(table, by)).dropna(subset=["utility", y])
        if len(table) < FEWEST_CELLS:
            return OPEN, "too few cells"
        columns = ["utility", "often", "width", y]
        whole = over_cells(table, columns, lambda utility, often, width, of: spearman(utility, of))
        ahead = over_cells(table, columns, _ahead)
        number = f"rank correlation of {NAMES.get(y, y)} with the predicted utility {whole}; above that with frequency "
        return verdict_of(ahead.low, ahead.high, 1), number + f"or width alone, whichever is larger, by {ahead}"

    return judge


def _ahead(utility: np.ndarray, often: np.ndarray, width: np.ndarray, of: np.ndarray) -> float:
    return spearman(utility, of) - max(spearman(often, of), spearman(width, of))


def predicted_from_others(table: pd.DataFrame) -> tuple[str, str]:
    """Whether `theory predict --from`'s estimate predicts cells left out better than the mean of the others does."""
    explained = []
    for _, cells in table.dropna(subset=["within"]).groupby("seed"):
        if len(cells) < FEWEST_CELLS or cells["width"].nunique() < 2 or cells["often"].nunique() < 2:
            continue
        width, often, loss = cells[["width", "often", "within"]].to_numpy(float).T
        of_the_mean = (loss - loss.mean()) * len(loss) / (len(loss) - 1)  # each loss less the mean of the others
        explained.append(1 - estimate_utilities(width, often, loss).held_out ** 2 / (of_the_mean**2).mean())
    if not explained:
        return OPEN, "too few cells"
    low, high, shown = over_seeds(np.array(explained), "+.2f", limits=(-np.inf, 1))
    return verdict_of(low, high, 1), f"share of the variance of the loss within labels that is predicted {shown}"


def unchanged_together(table: pd.DataFrame) -> tuple[str, str]:
    """Whether a task is learned as well beside other tasks as alone."""
    auc = table[table["task"] == "tcmp"].pivot_table(
        index=["seed", "width"], columns="injected", values="auc_unmirrored"
    )
    if not {"one", "three"} <= set(auc.columns):
        return OPEN, "too few cells"
    change = (auc["three"] - auc["one"]).dropna().groupby("seed").mean().to_numpy(float)
    low, high, shown = over_seeds(change, "+.3f")
    number = f"AUC with two more tasks less that alone {shown}"
    if max(abs(low), abs(high)) < SMALL_CHANGE:
        return REPRODUCED, number
    return (NOT if low > 0 or high < 0 else OPEN), number


def better_schedule(table: pd.DataFrame) -> tuple[str, str]:
    """Whether the theory's schedule keeps the task better than the better of uniform injection and bursts."""
    auc = table.pivot_table(index="seed", columns="schedule", values="auc_unmirrored")
    if not {"early", "uniform", "bursts"} <= set(auc.columns):
        return OPEN, "too few cells"
    ahead = (auc["early"] - auc[["uniform", "bursts"]].max(axis=1)).dropna().to_numpy(float)
    low, high, shown = over_seeds(ahead, "+.3f")
    return verdict_of(low, high, 1), f"AUC under the theory's schedule less the better of uniform and bursts {shown}"
