"""What bursts leave behind: read before each burst, told apart by text, beside the interference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures.accumulation import accumulation, accumulation_table, before_bursts
from analysis.figures.measures import AUC
from analysis.figures.style import svg
from analysis.read.conditions import conditions, schedule_label
from analysis.read.runs import Run, read_run
from analysis.report.accumulation import accumulation_section
from analysis.report.findings import sentences

EVERY, STEPS = 10, 40


def bursting_run(trained: Path, *, sequences: int | None, level: float, cosine: float) -> Run:
    """Bursts at steps 0, 10, 20 and 30: AUC is `level` before each and 1 after it."""
    run = read_run(trained)
    entry = run.injection("plus")
    assert entry is not None
    entry.every, run.experiment.train.max_duration, run.experiment.corpus.sequences = EVERY, STEPS, sequences
    steps = np.arange(STEPS + 1)
    auc = np.where(steps % EVERY == 0, level, 1.0)
    named = {"eval/plus/test/auc_unmirrored": auc, "gradient/plus/cos_rest": cosine * (-1.0) ** steps}
    frames = [pd.DataFrame({"name": name, "step": steps, "value": values}) for name, values in named.items()]
    kept = run.metrics[~run.metrics["name"].isin(list(named))]
    return replace(run, metrics=pd.concat([kept, *frames], ignore_index=True))


@pytest.fixture
def runs(trained: Path) -> list[Run]:
    return [
        bursting_run(trained, sequences=None, level=0.6, cosine=0.3),
        bursting_run(trained, sequences=8, level=0.9, cosine=0.1),
    ]


def test_accumulated_is_what_is_there_before_a_burst(runs: list[Run]) -> None:
    table = accumulation_table(runs, "plus")
    assert table["accumulated"].tolist() == pytest.approx([0.6, 0.9])
    assert table["interference"].tolist() == pytest.approx([0.3, 0.1])
    assert table["null"].isna().all()
    assert table["text"].tolist() == ["its own text", "8 sequences of its own text"]
    assert accumulation_table(runs, "less").empty  # it is injected evenly


def test_the_end_within_a_gap_is_not_before_a_burst(runs: list[Run]) -> None:
    runs[0].experiment.train.max_duration = STEPS + 5  # pyright: ignore[reportAttributeAccessIssue]
    assert before_bursts(runs[0], "plus", AUC).index.tolist() == [10, 20, 30, 40]
    runs[0].experiment.train.max_duration = STEPS - 5  # pyright: ignore[reportAttributeAccessIssue]
    ended = replace(runs[0], metrics=runs[0].metrics.loc[runs[0].metrics["step"] <= STEPS - 5])
    assert before_bursts(ended, "plus", AUC).index.tolist() == [10, 20, 30]


def test_bursts_before_a_branch_are_not_its_own(runs: list[Run]) -> None:
    runs[0].plan["first_step"] = EVERY + 5
    assert before_bursts(runs[0], "plus", AUC).index.tolist() == [30, 40]
    assert runs[0].injected_throughout("plus")
    entry = runs[0].injection("plus")
    assert entry is not None
    entry.start = EVERY + 5
    assert runs[0].injected_throughout("plus")
    entry.start += 1
    assert not runs[0].injected_throughout("plus")


def test_what_was_not_evaluated_before_a_burst_is_no_finding(runs: list[Run]) -> None:
    between = [replace(run, metrics=run.metrics.loc[run.metrics["step"] % EVERY != 0]) for run in runs]
    assert not [line for line in sentences(between) if "just before a burst" in line]


def test_each_text_has_a_panel_and_the_interference_one(runs: list[Run]) -> None:
    figure = accumulation(runs, "plus", accumulation_table(runs, "plus"))
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "beside its own text",
        "beside 8 sequences of its own text",
    ]
    staircase = next(line for line in figure.axes[1].lines if len(line.get_xdata()) > 2)
    assert list(staircase.get_xdata()) == [10, 20, 30, 40]
    assert list(staircase.get_ydata()) == [0.9] * 4
    assert len(figure.axes) == 3
    svg(figure)
    assert accumulation(runs, "less", accumulation_table(runs, "less")) is None


def test_the_report_opens_with_it(runs: list[Run]) -> None:
    section = accumulation_section(runs)
    assert section is not None
    assert [row["before a burst"] for row in section.tables[0].rows] == ["0.6", "0.9"]
    [found] = [line for line in sentences(runs) if "just before a burst" in line]
    assert "0.60" in found
    assert "beside 8 sequences of its own text" in found


def test_conditions_name_the_text_only_where_it_differs(runs: list[Run]) -> None:
    assert set(conditions(runs[:1], "plus").values()) == {schedule_label(runs[0], "plus")}
    assert [label.rpartition(" beside ")[2] for label in conditions(runs, "plus").values()] == [
        "its own text",
        "8 sequences of its own text",
    ]


def test_bursts_that_differ_are_told_apart(runs: list[Run]) -> None:
    entry = runs[1].injection("plus")
    assert entry is not None
    runs[1].experiment.corpus.sequences = runs[0].experiment.corpus.sequences
    usual = entry.instances
    entry.instances = 7
    assert accumulation_table(runs, "plus")["text"].tolist() == [
        f"its own text, {usual} every 10 batches",
        "its own text, 7 every 10 batches",
    ]
