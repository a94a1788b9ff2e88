"""Behaviour in the report and on the command line: learning, gaps and retention, from a run's measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis import behaviour_figures as figures
from analysis import figures as overview
from analysis.learning_order import learning_order, sentences
from analysis.page import Drawing, Section
from analysis.results import Tables, rows
from analysis.retention import Retention, retention
from analysis.runs import Run, task_names

TITLE = "Learning and retention"
_ABOUT = (
    "A task counts as learned from the first evaluation on after which the lower end of the 95% interval of its test "
    "accuracy stays above the criterion. What is kept: the gain in loss at a burst, and its decay until the next."
)


def behaviour_section(runs: Sequence[Run]) -> Section | None:
    """What the report's other sections do not show; None where the runs have nothing of it."""
    drawings = list(_drawings(runs))
    findings = [*sentences(learning_order(runs)), *_retained(runs)]
    return Section(TITLE, [_ABOUT], findings, drawings=drawings) if drawings else None


def behaviour_drawings(runs: Sequence[Run]) -> Section:
    """The heatmap and gaps of accuracy, which the report has in sections of their own."""
    drawings = []
    for task in task_names(runs):
        for name, figure in (
            (f"test-accuracy-{task}", overview.heatmap(runs, task)),
            (f"gap-accuracy-{task}", overview.gaps(runs, task)),
        ):
            drawings += [] if figure is None else [Drawing(name, figure, "")]
    return Section(TITLE, drawings=drawings)


def behaviour_tables(runs: Sequence[Run], scored: Tables) -> Tables:
    """All of it as tables.

    Args:
        runs: measured.
        scored: what the method `scores` found.

    Returns:
        `scores` and `order`, a row for each run and task; `retention`, a row for each step since a burst;
        `models`, the scores of models on their own.
    """
    scores = [
        {
            "run": run.name,
            "folder": str(run.folder),
            "model": run.size,
            "parameters": run.parameters,
            "task": task.name,
            "schedule": run.schedule_label(task.name),
            "per_batch": float(run.frequency(task.name).per_batch),
            "gap": run.gap(task.name),
            **{f"{half}_{measure}": _last(run, f"eval/{task.name}/{half}/{measure}") for half, measure in _SCORES},
            "learned": run.learned(task.name),
        }
        for run in runs
        for task in run.tasks
    ]
    kept = [
        {"run": run.name, "folder": str(run.folder), "model": run.size, "task": task.name, **row}
        for run in runs
        for task in run.tasks
        for row in _curve(retention(run, task.name))
    ]
    tables = {"scores": pd.DataFrame(scores), "order": learning_order(runs), "retention": pd.DataFrame(kept)}
    if scored:
        tables["models"] = rows(scored["scores"], step=-1)
    return {name: table for name, table in tables.items() if len(table)}


_SCORES = tuple((half, measure) for half in ("train", "test") for measure in ("loss", "accuracy"))


def _last(run: Run, name: str) -> float:
    values = run.series(name).dropna()
    return float(values.iloc[-1]) if len(values) else np.nan


def _curve(kept: Retention | None) -> Iterator[dict[str, object]]:
    if kept is None:
        return
    tau = (None, None) if kept.tau_interval is None else kept.tau_interval
    fit = {"tau": kept.decay and kept.decay[1], "tau_low": tau[0], "tau_high": tau[1], "kept": kept.kept}
    for after, gain, error in zip(kept.after.tolist(), kept.mean.tolist(), kept.error.tolist(), strict=True):
        yield {"after": after, "gain": gain, "error": error, "intervals": len(kept.bursts), **fit}


def _retained(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        for task in run.tasks:
            if (kept := retention(run, task.name)) is None:
                continue
            best, n = float(kept.mean.max()), len(kept.bursts)
            if best <= 0:
                yield f"{run.name}: {task.name} gains nothing at a burst (mean of {n})."
                continue
            left = f"{kept.kept:.0%}"
            if kept.kept_interval is not None:
                left += " ({:.0%} to {:.0%})".format(*kept.kept_interval)
            yield (
                f"{run.name}: {task.name} gains {best:.2f} nats within {kept.peak} steps of a burst (mean of {n}); "
                f"{left} of it is left {kept.after[-1]} steps after the burst, {_tau(kept)}."
            )


def _tau(kept: Retention) -> str:
    if kept.decay is None:
        return "too little of a decay to fit"
    text = f"time constant of the decay {kept.decay[1]:.0f} steps"
    return text if kept.tau_interval is None else text + " ({:.0f} to {:.0f})".format(*kept.tau_interval)


def _drawings(runs: Sequence[Run]) -> Iterator[Drawing]:
    for task in task_names(runs):
        for name, figure, caption in (
            (
                f"train-loss-{task}",
                figures.loss_heatmap(runs, task),
                "loss of LABEL on the train half at the last evaluation, over model size and frequency.",
            ),
            (
                f"curves-{task}",
                figures.learning_curves(runs, task),
                "loss on the test half over steps. Dashed: reference tasks found in the corpus, where evaluated.",
            ),
            (
                f"gap-loss-{task}",
                figures.gap_losses(runs, task),
                "loss on the test half against the gap between observations at equal long-run frequency: mean over the "
                "last quarter of the run, bars from the 10th to the 90th percentile.",
            ),
            (
                f"retention-{task}",
                figures.retention_curves(runs, task),
                "loss between bursts, and the mean gain since a burst with its standard error. Dashed: fitted decay.",
            ),
        ):
            if figure is not None:
                yield Drawing(name, figure, f"{task}: {caption}")
