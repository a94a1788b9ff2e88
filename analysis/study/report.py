"""Write what the collected cells say: figures, one table for each sweep, and the verdicts as Markdown."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.style import style
from analysis.study import figures
from analysis.study.claims import Finding, findings
from analysis.study.measures import LEARNED_AUC, collected
from olmo_inject.errors import UserError
from olmo_inject.utils.figure_style import save
from olmo_inject.utils.files import replacing, write_text

ALONE = "nothing that competes"
DECIDING = (["alone"], ["long"], ["lr1e-2", "lr1e-3", "lr3e-4", "scaled"])  # controls that decide a case
FURTHER = ["further"]  # the ladder's checkpoint, trained on the task alone
BEGIN, END = "<!-- verdicts: written by python -m analysis.study -->", "<!-- end of verdicts -->"


def write_study(results: Path, to: Path) -> list[str]:
    """Figures into `to`/figures, tables into `to`/tables, verdicts into `to`/README.md between its two marks.

    Returns:
        A line for each claim, for people.
    """
    tables = collected(results)
    (to / "figures").mkdir(exist_ok=True)
    (to / "tables").mkdir(exist_ok=True)
    for name, table in tables.items():
        with replacing(to / "tables" / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    for name, figure in figures.all_of(tables, results):
        with style():
            save(figure, to / "figures" / f"{name}.svg")
    judged = findings(tables)
    _write_between_marks(to / "README.md", "\n\n".join([_markdown(judged), *_failures(tables)]))
    return [f"{finding.verdict}: {finding.claim}. {finding.number}" for finding in judged]


def _markdown(judged: list[Finding]) -> str:
    lines = ["| claim | verdict | number (95%) | from |", "|---|---|---|---|"]
    for one in judged:
        origin = f"`{one.sweep}`" + (f", {one.cells}" if one.cells else "")
        lines.append(f"| {one.claim} | **{one.verdict}** | {one.number} | {origin} |")
    return "\n".join(lines)


def _failures(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The cells of widths that learned the task beside no text of the ladder, and what the controls say of each.

    AUC is the mean over seeds, and the case that of each seed.
    """
    ladder, controls = tables.get("study-ladder"), _controls(tables)
    if ladder is None:
        return []
    reached = ladder.groupby("width")["auc_unmirrored"].max()
    narrow = ladder[ladder["width"].isin(reached[reached < LEARNED_AUC].index)]
    lines = [
        "| width | text | AUC | alone | then alone | 12,000 steps | best other rate | case, by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    texts = list(figures.TEXTS)
    for (width, text), cells in sorted(
        narrow.groupby(["width", "text"]), key=lambda one: (one[0][0], texts.index(one[0][1]))
    ):
        mine = controls[(controls["width"] == width) & controls["text"].isin([ALONE, text])]
        values = [cells["auc_unmirrored"].mean(), *(_auc(mine, names) for names in (*DECIDING, FURTHER))]
        auc, alone, long, rate, further = ("" if value is None else f"{value:.2f}" for value in values)
        cases = ", ".join(
            _case(*(_auc(mine[mine["seed"] == seed], names) for names in DECIDING)) or "?"
            for seed in sorted(cells["seed"].unique())
        )
        lines.append(f"| {width} | {figures.TEXTS[text]} | {auc} | {alone} | {further} | {long} | {rate} | {cases} |")
    return ["\n".join(lines)] if len(lines) > 2 else []


def _controls(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The controls alone, beside the whole corpus and beside the smaller texts, in one table."""
    empty = pd.DataFrame(columns=["text", "seed", "control", "width", "auc_unmirrored"])
    controls, texts = tables.get("study-controls", empty), tables.get("study-texts", empty)
    further = [tables.get("study-further", empty).assign(text="whole"), tables.get("study-further-texts", empty)]
    where = np.where(controls["control"] == "alone", ALONE, "whole")
    labelled = [table.assign(control=FURTHER[0]) for table in further]
    return pd.concat([controls.assign(text=where), *labelled, texts], ignore_index=True)


def _auc(controls: pd.DataFrame, names: list[str]) -> float | None:
    """The mean AUC over seeds of the best of some controls."""
    means = controls[controls["control"].isin(names)].groupby("control")["auc_unmirrored"].mean()
    return float(means.max()) if len(means) else None


def _case(alone: float | None, long: float | None, rate: float | None) -> str:
    """By PLAN.md; nothing where a control that decides is missing."""
    if alone is None:
        return ""
    if alone < LEARNED_AUC:
        return "expressivity"
    if long is not None and long >= LEARNED_AUC:
        return "under-training"
    if rate is not None and rate >= LEARNED_AUC:
        return "learning rate"
    return "competition" if long is not None and rate is not None else ""


def _write_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the marks of a page; a page that is not there is written with nothing around them."""
    page = path.read_text(encoding="utf-8") if path.exists() else f"# Verdicts\n\n{BEGIN}\n{END}\n"
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise UserError(f"{path}: the lines {BEGIN} and {END} must each stand in it once")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    write_text(path, f"{before}{BEGIN}\n{text}\n{END}{after}")
