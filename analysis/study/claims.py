"""The claims, each as a number with an interval over seeds, and the verdict that PLAN.md prescribes for it."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats import percentile_interval, resamples, spearman, student_reach
from analysis.study.measures import LEARNED_AUC
from analysis.study.theory import utilities
from launch.sweep import Sweep, load_sweep
from olmo_inject.theory.prediction.estimate import estimate_utilities

NOT_RUN = "not yet run"
REPRODUCED, PARTLY, NOT, OPEN = "reproduced", "partly", "not reproduced", "open"
RESAMPLES = 1000
WHOLE = 0.8  # share of a sweep's cells that a seed must have to be judged
ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """One claim and what the cells say of it.

    Attributes:
        claim: in words.
        verdict: by the criterion of PLAN.md.
        number: what was measured, with its interval.
        cells: how many, of how many seeds.
        sweep: where it was measured.
    """

    claim: str
    verdict: str
    number: str
    cells: str
    sweep: str


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Every claim, in the order of PLAN.md; those whose sweep has no cells yet say so.

    Args:
        tables: `sweep_table` of each sweep with results.
    """
    return [_judge(tables, *claim) for claim in CLAIMS]


def _judge(tables: Mapping[str, pd.DataFrame], words: str, sweep: str, judge: Callable) -> Finding:
    table = tables.get(sweep)
    if table is None or (table := _nearly_whole(table, load_sweep(sweep))).empty:
        return Finding(words, NOT_RUN, "", "", sweep)
    verdict, number = judge(table)
    seeds = table["seed"].nunique()
    return Finding(words, verdict, number, f"{table['cell'].nunique()} cells, {seeds} seed{'s' * (seeds > 1)}", sweep)


def _nearly_whole(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Without seeds of which most cells are still to be run: a resample of one cell says nothing."""
    planned = Counter(cell.labels["seed"] for cell in sweep.cells)
    collected = table.groupby("seed")["cell"].transform("nunique")
    return table.loc[(collected >= WHOLE * table["seed"].map(planned)).to_numpy(bool)]


def trend(table: pd.DataFrame, x: str, y: str, within: list[str]) -> np.ndarray:
    """Rank correlation of two columns inside each group, averaged over groups: one number for each seed.

    Args:
        table: `sweep_table` of a sweep.
        x: column.
        y: column.
        within: columns whose values make the groups; empty: all cells of a seed are one.
    """
    correlations = []
    for _, of_seed in table.dropna(subset=[x, y]).groupby("seed"):
        groups = [group for _, group in of_seed.groupby(within)] if within else [of_seed]
        each = [_ranked(group, x, y) for group in groups if group[x].nunique() > 1 and len(group) > 2]
        if each:
            correlations.append(np.mean(each))
    return np.array(correlations)


def _ranked(table: pd.DataFrame, x: str, y: str) -> float:
    return spearman(*table[[x, y]].to_numpy(float).T)


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation of `x` and `y` with the ranks of `given` taken out of both."""
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz**2) * (1 - yz**2)
    # Where `given` explains one of them wholly, nothing is left to correlate.
    return float((xy - xz * yz) / np.sqrt(left)) if left > ROUNDING else 0.0


@dataclass(frozen=True)
class OverCells:
    """A statistic of all cells.

    Attributes:
        value: of all cells together.
        low: lower end of its 95% interval, of resampled seeds and, inside them, cells; NaN with one seed.
        high: upper end.
        seeds: the statistic of each seed's cells.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" ({self.low:+.2f} to {self.high:+.2f})"
        by_seed = ", by seed " + ", ".join(f"{value:+.2f}" for value in self.seeds) if len(self.seeds) > 1 else ""
        return f"{self.value:+.2f}{interval}{by_seed}"


def over_cells(table: pd.DataFrame, columns: Sequence[str], statistic: Callable[..., float]) -> OverCells:
    """A statistic of all cells, with an interval that resamples seeds and, inside them, cells.

    With two or three seeds the interval is too narrow (in a simulation it held the truth in 65 and 79 of 100 cases), so
    the values of the seeds stand beside it.

    Args:
        table: `sweep_table` of a sweep.
        columns: what the statistic is of.
        statistic: takes an array for each column.
    """
    values = table[list(columns)].to_numpy(float)
    seeds = [np.flatnonzero(table["seed"] == seed) for seed in table["seed"].unique()]
    of_seeds = tuple(statistic(*values[rows].T) for rows in seeds)
    if len(seeds) < 2:
        return OverCells(statistic(*values.T), np.nan, np.nan, of_seeds)
    cells = [rows[resamples(len(rows), RESAMPLES, "study", "cells", seed)] for seed, rows in enumerate(seeds)]
    samples = []
    for number, chosen in enumerate(resamples(len(seeds), RESAMPLES, "study", "seeds")):
        # A seed chosen twice brings two draws of its cells.
        rows = np.concatenate([cells[seed][number - place] for place, seed in enumerate(chosen)])
        samples.append(statistic(*values[rows].T))
    low, high = percentile_interval(np.array(samples))
    return OverCells(statistic(*values.T), low, high, of_seeds)


def _verdict(low: float, high: float, sign: int) -> str:
    """Reproduced where the interval lies on the claimed side of zero, not where it lies on the other, else open."""
    if np.isnan(low):
        return OPEN
    if (low > 0 and sign > 0) or (high < 0 and sign < 0):
        return REPRODUCED
    return NOT if (high < 0 and sign > 0) or (low > 0 and sign < 0) else OPEN


def _over_seeds(values: np.ndarray, form: str, most: float = np.inf) -> tuple[float, float, str]:
    """The ends of Student's interval of a mean over seeds, NaN with one seed, and the mean with it in words.

    Args:
        values: of each seed.
        form: format of a number.
        most: largest magnitude that a value can have, at which the interval ends.
    """
    mean, reach = float(values.mean()), student_reach(values)
    low, high = (float(np.clip(end, -most, most)) for end in (mean - reach, mean + reach))
    return low, high, f"{mean:{form}}" + ("" if np.isnan(reach) else f" ({low:{form}} to {high:{form}})")


def _trend_of(x: str, y: str, sign: int, within: list[str]) -> Callable[[pd.DataFrame], tuple[str, str]]:
    def judge(table: pd.DataFrame) -> tuple[str, str]:
        per_seed = trend(table, x, y, within)
        if not len(per_seed):
            return OPEN, "too few cells"
        low, high, shown = _over_seeds(per_seed, "+.2f", most=1)
        return _verdict(low, high, sign), f"rank correlation of {NAMES.get(y, y)} with {NAMES.get(x, x)} {shown}"

    return judge


def _less_interference(y: str) -> Callable[[pd.DataFrame], tuple[str, str]]:
    """Whether interference falls with width, and that with permuted labels does not (PLAN.md)."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        verdict, number = _trend_of("width", y, -1, ["text"])(table)
        null, of_null = _trend_of("width", "rest_null_rms", -1, ["text"])(table)
        return (NOT if verdict == null == REPRODUCED else verdict), f"{number}; labels permuted: {of_null}"

    return judge


def _saturation(y: str, words: str) -> Callable[[pd.DataFrame], tuple[str, str]]:
    """Whether `y` falls with the residual of the common data, over widths and corpora together."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        table = table.dropna(subset=["residual", y])
        if len(table) < FEWEST_CELLS:
            return OPEN, "too few cells"
        whole = over_cells(table, ["residual", y], spearman)
        return _verdict(whole.low, whole.high, -1), f"rank correlation of {words} with the residual {whole}"

    return judge


def _forgotten(table: pd.DataFrame) -> tuple[str, str]:
    """Whether what was learned is forgotten the more, the more the text leaves to learn; seed 1 suggested it."""
    table = table.loc[table["seed"] != "s1"].dropna(subset=["residual", "forgotten"])
    if len(table) < FEWEST_CELLS:
        return OPEN, "too few cells without seed 1, which suggested it"
    whole = over_cells(table, ["residual", "forgotten"], spearman)
    number = f"rank correlation of the AUC lost with the residual {whole}, in {len(table)} cells that had "
    return _verdict(whole.low, whole.high, 1), number + "learned it, without seed 1, which suggested it"


def _one_curve(y: str, words: str) -> Callable[[pd.DataFrame], tuple[str, str]]:
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


def _gap(table: pd.DataFrame) -> tuple[str, str]:
    """Whether a task is the worse the longer the gap at one long-run frequency."""
    return _trend_of("gap", "within", 1, ["width"])(table.assign(gap=table["burst"].str[1:].astype(int)))


def _alone(table: pd.DataFrame) -> tuple[str, str]:
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


def _theory(y: str, by: str | None = None) -> Callable[[pd.DataFrame], tuple[str, str]]:
    """Whether the theory's utility ranks cells better than the frequency or the width alone does."""

    def judge(table: pd.DataFrame) -> tuple[str, str]:
        table = table.assign(utility=utilities(table, by)).dropna(subset=["utility", y])
        if len(table) < FEWEST_CELLS:
            return OPEN, "too few cells"
        columns = ["utility", "often", "width", y]
        whole = over_cells(table, columns, lambda utility, often, width, of: spearman(utility, of))
        ahead = over_cells(table, columns, _ahead)
        number = f"rank correlation of {NAMES.get(y, y)} with the predicted utility {whole}; above that with frequency "
        return _verdict(ahead.low, ahead.high, 1), number + f"or width alone, whichever is larger, by {ahead}"

    return judge


def _ahead(utility: np.ndarray, often: np.ndarray, width: np.ndarray, of: np.ndarray) -> float:
    return spearman(utility, of) - max(spearman(often, of), spearman(width, of))


def _from_others(table: pd.DataFrame) -> tuple[str, str]:
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
    low, high, shown = _over_seeds(np.array(explained), "+.2f")
    return _verdict(low, high, 1), f"share of the variance of the loss within labels that is predicted {shown}"


def _together(table: pd.DataFrame) -> tuple[str, str]:
    """Whether a task is learned as well beside other tasks as alone."""
    auc = table[table["task"] == "tcmp"].pivot_table(
        index=["seed", "width"], columns="injected", values="auc_unmirrored"
    )
    if not {"one", "three"} <= set(auc.columns):
        return OPEN, "too few cells"
    change = (auc["three"] - auc["one"]).dropna().groupby("seed").mean().to_numpy(float)
    low, high, shown = _over_seeds(change, "+.3f")
    number = f"AUC with two more tasks less that alone {shown}"
    if max(abs(low), abs(high)) < SMALL_CHANGE:
        return REPRODUCED, number
    return (NOT if low > 0 or high < 0 else OPEN), number


def _schedule(table: pd.DataFrame) -> tuple[str, str]:
    """Whether the theory's schedule keeps the task better than the better of uniform injection and bursts."""
    auc = table.pivot_table(index="seed", columns="schedule", values="auc_unmirrored")
    if not {"early", "uniform", "bursts"} <= set(auc.columns):
        return OPEN, "too few cells"
    ahead = (auc["early"] - auc[["uniform", "bursts"]].max(axis=1)).dropna().to_numpy(float)
    low, high, shown = _over_seeds(ahead, "+.3f")
    return _verdict(low, high, 1), f"AUC under the theory's schedule less the better of uniform and bursts {shown}"


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
    "rest_null_rms": "the null",
}
CLAIMS: list[tuple[str, str, Callable[[pd.DataFrame], tuple[str, str]]]] = [
    (
        "Wider models learn what narrow ones do not (Fig. 5)",
        "study-tcmp",
        _trend_of("width", "auc_unmirrored", 1, ["rate"]),
    ),
    (
        "The more frequent, the better learned (Fig. 5, 6a)",
        "study-tcmp",
        _trend_of("often", "auc_unmirrored", 1, ["width"]),
    ),
    (
        "Addition: wider models learn what narrow ones do not (Fig. 5)",
        "study-tadd",
        _trend_of("width", "accuracy_unmirrored", 1, ["rate"]),
    ),
    (
        "Addition: the more frequent, the better learned (Fig. 5)",
        "study-tadd",
        _trend_of("often", "accuracy_unmirrored", 1, ["width"]),
    ),
    (
        "The order of the values is more of a line in wider models (Fig. 7)",
        "study-tcmp",
        _trend_of("width", "order", 1, ["rate"]),
    ),
    (
        "The order is more of a line at higher frequency (Fig. 7)",
        "study-tcmp",
        _trend_of("often", "order", 1, ["width"]),
    ),
    ("Addition: more Fourier modes in wider models (Fig. 7)", "study-tadd", _trend_of("width", "modes", 1, ["rate"])),
    (
        "Addition: more Fourier modes at higher frequency (Fig. 7)",
        "study-tadd",
        _trend_of("often", "modes", 1, ["width"]),
    ),
    ("At equal frequency longer gaps are worse (Fig. 6b)", "study-gaps", _gap),
    ("Wider models keep more of a burst (Fig. 8)", "study-ladder", _trend_of("width", "kept", 1, ["text"])),
    (
        "Under equal bursts wider models accumulate more",
        "study-ladder",
        _trend_of("width", "auc_unmirrored", 1, ["text"]),
    ),
    (
        "Alignment search is further above its controls in wider models, under equal bursts",
        "study-ladder",
        _trend_of("width", "alignment", 1, ["text"]),
    ),
    (
        "Alignment search is further above its controls in wider models, at one rate",
        "study-tcmp",
        _trend_of("width", "alignment", 1, ["rate"]),
    ),
    (
        "Alignment search is further above its controls at higher frequency",
        "study-tcmp",
        _trend_of("often", "alignment", 1, ["width"]),
    ),
    (
        "Other tokens' gradients interfere less in wider models (Fig. 9)",
        "study-ladder",
        _less_interference("rest_cos_rms"),
    ),
    (
        "Interference, with the loss among the labels as reference, is less in wider models",
        "study-ladder",
        _less_interference("rest_among_rms"),
    ),
    (
        "Other tokens' gradients interfere less in wider models: in the second MLP",
        "study-layer",
        _less_interference("rest_cos_rms"),
    ),
    (
        "The task is learned the better the smaller the text's residual",
        "study-ladder",
        _saturation("auc_unmirrored", "AUC"),
    ),
    (
        "A burst is kept the better the smaller the text's residual",
        "study-ladder",
        _saturation("kept", "the share kept"),
    ),
    ("Width acts through the text's residual alone (one curve)", "study-ladder", _one_curve("auc_unmirrored", "AUC")),
    ("Narrow models can express the task: they learn it alone", "study-controls", _alone),
    ("After the last injection a task is forgotten the more, the larger the text's residual", "study-stop", _forgotten),
    (
        "After the last injection wider models forget less",
        "study-stop",
        _trend_of("width", "forgotten", -1, ["lr", "text"]),
    ),
    ("The theory ranks the cells of size and frequency", "study-tcmp", _theory("auc_unmirrored")),
    ("Addition: the theory ranks the cells", "study-tadd", _theory("accuracy_unmirrored")),
    ("The theory ranks the cells of the ladder", "study-ladder", _theory("auc_unmirrored", "text")),
    ("The theory predicts cells from the others (size and frequency)", "study-tcmp", _from_others),
    ("Addition: the theory predicts cells from the others", "study-tadd", _from_others),
    ("Several tasks in one run leave each other as they are", "study-together", _together),
    ("A schedule chosen from the theory keeps what others lose", "study-schedules", _schedule),
]
