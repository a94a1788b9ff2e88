"""Behaviour in the report and on the command line: learning, gaps and retention, from a run's measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.figures import behaviour as figures
from analysis.figures.gaps import gap_losses, gaps
from analysis.figures.heatmaps import heatmap, loss_heatmap
from analysis.methods.learning_order import learning_order, sentences
from analysis.methods.retention import Retention, retention
from analysis.read.runs import Run, task_names
from analysis.read.store import Tables, rows
from analysis.report.findings import unfinished
from analysis.report.page import Drawing, Section
from olmo_inject.tasks.halves import UNMIRRORED

TITLE = "Learning and retention"
_ABOUT = (
    "A task counts as learned from the first evaluation on after which the lower end of the 95% interval of its test "
    "accuracy, on pairs whose mirror was not trained on, stays above the criterion. What is kept: the gain in loss at "
    "a burst, and its decay until the next."
)


def behaviour_section(runs: Sequence[Run]) -> Section | None:
    """What the report's other sections do not show; None where the runs have nothing of it."""
    drawings = list(_drawings(runs))
    findings = [*unfinished(runs), *sentences(learning_order(runs)), *_retained(runs)]
    return Section(TITLE, [_ABOUT], findings, drawings=drawings) if drawings else None


def behaviour_drawings(runs: Sequence[Run]) -> Section:
    """The heatmap and gaps of accuracy, which the report has in sections of their own."""
    drawings = []
    for task in task_names(runs):
        for name, figure in (
            (f"test-accuracy-{task}", heatmap(runs, task)),
            (f"gap-accuracy-{task}", gaps(runs, task)),
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
            **_judged(run, task.name),
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


def _judged(run: Run, task: str) -> dict[str, float]:
    found = run.accuracy(task, UNMIRRORED)
    values = (np.nan, 0, np.nan, np.nan) if found is None else (found.value, found.n, found.low, found.high)
    return dict(zip((f"test_{UNMIRRORED}", "unmirrored", "unmirrored_low", "unmirrored_high"), values, strict=True))


def _last(run: Run, name: str) -> float:
    values = run.series(name).dropna()
    return float(values.iloc[-1]) if len(values) else np.nan


def _curve(kept: Retention | None) -> Iterator[dict[str, object]]:
    if kept is None:
        return
    fit = {
        "peak": kept.peak,
        "half_life": kept.half_life,
        **_ends("half_life", kept.half_life_interval),
        "tau": None if kept.decay is None else kept.decay[1],
        **_ends("tau", kept.tau_interval),
        "r2": kept.r2,
        "kept": kept.kept,
        **_ends("kept", kept.kept_interval),
    }
    for after, gain, error in zip(kept.after.tolist(), kept.mean.tolist(), kept.error.tolist(), strict=True):
        yield {"after": after, "gain": gain, "error": error, "intervals": len(kept.bursts), **fit}


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else interval
    return {f"{name}_low": low, f"{name}_high": high}


def _retained(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        for task in run.tasks:
            if (kept := retention(run, task.name)) is None:
                continue
            best, n = float(kept.mean.max()), len(kept.bursts)
            if best <= 0:
                yield f"{run.name}: {task.name} gains nothing at a burst (mean of {n})."
                continue
            yield (
                f"{run.name}: {task.name} gains {best:.2f} nats within {kept.peak} steps of a burst (mean of {n}); "
                f"{kept.kept:.0%}{_between(kept.kept_interval, '.0%')} of it is left after {kept.after[-1]} steps; "
                f"{_half_life(kept)}; {_tau(kept)}."
            )


def _half_life(kept: Retention) -> str:
    if kept.half_life is None:
        return "less than half of it is lost"
    return f"half of it is lost in {kept.half_life:.0f}{_between(kept.half_life_interval, '.0f')} steps from there"


def _tau(kept: Retention) -> str:
    if kept.decay is None:
        return "too little of a decay to fit"
    between = _between(kept.tau_interval, ".0f")
    return f"an exponential fits with R2 {kept.r2:.2f}, time constant {kept.decay[1]:.0f}{between} steps"


def _between(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"


def _drawings(runs: Sequence[Run]) -> Iterator[Drawing]:
    dashed = " Dashed: reference tasks, statements found in the corpus." if figures.reference_names(runs) else ""
    for task in task_names(runs):
        for name, figure, caption in (
            (
                f"train-loss-{task}",
                loss_heatmap(runs, task),
                "loss of LABEL on the train half at the last evaluation, over model size and frequency.",
            ),
            (
                f"curves-{task}",
                figures.learning_curves(runs, task),
                "loss on the test half over steps." + dashed,
            ),
            (
                f"gap-loss-{task}",
                gap_losses(runs, task),
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
