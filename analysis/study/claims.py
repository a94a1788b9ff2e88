"""The claims, in the order of PLAN.md: what each says, of which sweep, and how it is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.study import judges
from launch.sweep import Sweep, load_sweep

NOT_RUN = "not yet run"
WHOLE = 0.8  # share of a sweep's cells that a seed must have to be judged


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


def _judge(tables: Mapping[str, pd.DataFrame], words: str, sweep: str, judge: judges.Judge) -> Finding:
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


CLAIMS: list[tuple[str, str, judges.Judge]] = [
    (
        "Wider models learn what narrow ones do not (Fig. 5)",
        "study-tcmp",
        judges.trend_of("width", "auc_unmirrored", 1, ["rate"]),
    ),
    (
        "The more frequent, the better learned (Fig. 5, 6a)",
        "study-tcmp",
        judges.trend_of("often", "auc_unmirrored", 1, ["width"]),
    ),
    (
        "Addition: wider models learn what narrow ones do not (Fig. 5)",
        "study-tadd",
        judges.trend_of("width", "accuracy_unmirrored", 1, ["rate"]),
    ),
    (
        "Addition: the more frequent, the better learned (Fig. 5)",
        "study-tadd",
        judges.trend_of("often", "accuracy_unmirrored", 1, ["width"]),
    ),
    (
        "The order of the values is more of a line in wider models (Fig. 7)",
        "study-tcmp",
        judges.trend_of("width", "order", 1, ["rate"]),
    ),
    (
        "The order is more of a line at higher frequency (Fig. 7)",
        "study-tcmp",
        judges.trend_of("often", "order", 1, ["width"]),
    ),
    (
        "Addition: more Fourier modes in wider models (Fig. 7)",
        "study-tadd",
        judges.trend_of("width", "modes", 1, ["rate"]),
    ),
    (
        "Addition: more Fourier modes at higher frequency (Fig. 7)",
        "study-tadd",
        judges.trend_of("often", "modes", 1, ["width"]),
    ),
    ("At equal frequency longer gaps are worse (Fig. 6b)", "study-gaps", judges.gap),
    ("Wider models keep more of a burst (Fig. 8)", "study-ladder", judges.trend_of("width", "kept", 1, ["text"])),
    (
        "Under equal bursts wider models accumulate more",
        "study-ladder",
        judges.trend_of("width", "auc_unmirrored", 1, ["text"]),
    ),
    (
        "Alignment search less its controls is higher in wider models, under equal bursts",
        "study-ladder",
        judges.trend_of("width", "alignment", 1, ["text"]),
    ),
    (
        "Alignment search less its controls is higher in wider models, at one rate",
        "study-tcmp",
        judges.trend_of("width", "alignment", 1, ["rate"]),
    ),
    (
        "Alignment search less its controls is higher at higher frequency",
        "study-tcmp",
        judges.trend_of("often", "alignment", 1, ["width"]),
    ),
    (
        "Other tokens' gradients interfere less in wider models (Fig. 9)",
        "study-ladder",
        judges.less_interference("rest_cos_rms"),
    ),
    (
        "Interference, with the loss among the labels as reference, is less in wider models",
        "study-ladder",
        judges.less_interference("rest_among_rms"),
    ),
    (
        "Other tokens' gradients interfere less in wider models: in the second MLP",
        "study-layer",
        judges.less_interference("rest_cos_rms"),
    ),
    (
        "The task is learned the better the smaller the text's residual",
        "study-ladder",
        judges.saturation("auc_unmirrored", "AUC"),
    ),
    (
        "A burst is kept the better the smaller the text's residual",
        "study-ladder",
        judges.saturation("kept", "the share kept"),
    ),
    (
        "Width acts through the text's residual alone (one curve)",
        "study-ladder",
        judges.one_curve("auc_unmirrored", "AUC"),
    ),
    ("Narrow models can express the task: they learn it alone", "study-controls", judges.alone_learned),
    ("Alone, wider models learn it with smaller steps", "study-controls", judges.smaller_steps),
    (
        "After the last injection a task is forgotten the more, the larger the text's residual",
        "study-stop",
        judges.forgotten,
    ),
    (
        "After the last injection wider models forget less",
        "study-stop",
        judges.trend_of("width", "forgotten", -1, ["lr", "text"]),
    ),
    ("The theory ranks the cells of size and frequency", "study-tcmp", judges.theory_ranks("auc_unmirrored")),
    ("Addition: the theory ranks the cells", "study-tadd", judges.theory_ranks("accuracy_unmirrored")),
    ("The theory ranks the cells of the ladder", "study-ladder", judges.theory_ranks("auc_unmirrored", "text")),
    ("The theory predicts cells from the others (size and frequency)", "study-tcmp", judges.predicted_from_others),
    ("Addition: the theory predicts cells from the others", "study-tadd", judges.predicted_from_others),
    ("Several tasks in one run leave each other as they are", "study-together", judges.unchanged_together),
    ("A schedule chosen from the theory keeps what others lose", "study-schedules", judges.better_schedule),
]
