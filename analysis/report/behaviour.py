"""Learning, gaps and retention in the report and on the command line, from the runs' measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.figures import behaviour as figures
from analysis.figures.gaps import gap_losses, gaps
from analysis.figures.heatmaps import heatmap, loss_heatmap
from analysis.methods.learning_order import learning_order, order_table
from analysis.methods.retention import Retention, retention
from analysis.read.conditions import schedule_label
from analysis.read.runs import Run, label_tasks, measurements
from analysis.read.store import Tables, rows
from analysis.report.page import Drawing, Section, Table, tables, with_interval
from olmo_inject.tasks.halves import UNMIRRORED

TITLE = "Learning and retention"
_ABOUT = (
    "A task counts as learned from the first evaluation from which on the lower end of the 95% interval of accuracy, "
    "on test pairs whose mirror was not trained on, stays above the criterion. Retention is the share of the loss "
    "gained at a burst that is left at the last evaluation before the next or at its step."
)
_COMMAND = "olmo-inject analyze behaviour RUNS"
_SCORES = tuple((half, measure) for half in ("train", "test") for measure in ("loss", "accuracy"))


def behaviour_section(runs: Sequence[Run]) -> Section | None:
    """What the report's other sections do not show; None if the runs hold none of it."""
    drawings = list(_drawings(runs))
    if not drawings:
        return None
    shown = tables(_order_table(runs), _retention_table(runs))
    return Section(TITLE, [_ABOUT], tables=shown, drawings=drawings, command=_COMMAND)


def behaviour_drawings(runs: Sequence[Run]) -> Section:
    """The accuracy heatmap and the accuracy over gaps. In the report they have sections of their own."""
    scores = score_table(runs)
    drawings = []
    for task in label_tasks(runs):
        for name, figure in (
            (f"test-accuracy-{task}", heatmap(runs, task)),
            (f"gap-accuracy-{task}", gaps(runs, task)),
        ):
            drawings += [] if figure is None else [Drawing(name, figure, "", rows(scores, task=task))]
    return Section(TITLE, drawings=drawings, command=_COMMAND)


def score_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run and task: how it was injected, and its scores at the last evaluation."""
    return pd.DataFrame(
        {
            "run": run.name,
            "folder": str(run.folder),
            "model": run.size,
            "parameters": run.parameters,
            "task": task.name,
            "schedule": schedule_label(run, task.name),
            "per_batch": float(run.frequency(task.name).per_batch),
            "gap": run.gap(task.name),
            **{f"{half}_{measure}": _last(run, f"eval/{task.name}/{half}/{measure}") for half, measure in _SCORES},
            **_unmirrored(run, task.name),
            "learned": run.learned(task.name),
        }
        for run in runs
        for task in run.tasks
    )


def retention_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, task and step since a burst: the gain, and the fit of its decay."""
    return pd.DataFrame(
        {"run": run.name, "folder": str(run.folder), "model": run.size, "task": task.name, **row}
        for run in runs
        for task in run.tasks
        for row in _curve(retention(run, task.name))
    )


def behaviour_tables(runs: Sequence[Run], scored: Tables) -> Tables:
    """All tables of behaviour.

    Args:
        runs: the runs, with scores added to their metrics.
        scored: tables of the method `scores`.

    Returns:
        `scores` and `order`, one row per run and task; `retention`, one row per step since a burst; `models`, the
        scores of models outside runs.
    """
    made = {"scores": score_table(runs), "order": learning_order(runs), "retention": retention_table(runs)}
    if scored:
        made["models"] = rows(scored["scores"], step=-1)
    return {name: table for name, table in made.items() if len(table)}


def _unmirrored(run: Run, task: str) -> dict[str, float]:
    accuracy = run.accuracy(task, UNMIRRORED)
    values = (np.nan, 0, np.nan, np.nan)
    if accuracy is not None:
        values = (accuracy.value, accuracy.n, accuracy.low, accuracy.high)
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


def _retention_table(runs: Sequence[Run]) -> Table:
    kept = [(run, task.name, of) for run in runs for task in run.tasks if (of := retention(run, task.name)) is not None]
    cells = [
        {
            "run": run.name,
            "task": task,
            "bursts": str(len(of.bursts)),
            "largest gain (nats)": f"{of.mean.max():.2f}",
            "at step after the burst": str(of.peak),
            "left at the last evaluation": _with_ends(of.kept, of.kept_interval, ".0%") or "-",
            "its step after the burst": str(of.after[-1]),
            "half-life (steps)": _with_ends(of.half_life, of.half_life_interval, ".0f"),
            "time constant (steps)": _with_ends(None if of.decay is None else of.decay[1], of.tau_interval, ".0f"),
            "R2 of the exponential": "" if of.decay is None else f"{of.r2:.2f}",
        }
        for run, task, of in kept
    ]
    title = (
        "Retention, means over bursts (95% CI, of three bursts or more). No half-life: less than half was lost. -: "
        "fewer than three bursts, or a gain whose interval holds zero"
    )
    return Table(title, cells, ("run", "task"))


def _with_ends(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    return with_interval(value, *(interval or (None, None)), form)


def _order_table(runs: Sequence[Run]) -> Table:
    cells = [
        {
            "model": row["model"],
            **({"text": row["text"]} if "text" in row else {}),
            "kind of task": row["kind"].replace("_", " "),
            "tasks, of all runs": str(row["tasks"]),
            "frequencies": str(row["frequencies"]),
            "learned": str(row["learned"]),
            "rank correlation": "" if np.isnan(row["correlation"]) else f"{row['correlation']:+.2f}",
            "p": "" if np.isnan(row["p"]) else f"{row['p']:.2g}",
        }
        for row in order_table(learning_order(runs)).to_dict("records")
        if row["frequencies"] > 1
    ]
    title = "Order of learning against frequency; +1: more frequent tasks earlier (needs 3 frequencies, 2 learned)"
    return Table(title, cells, ("model", "text", "kind of task"))


def _drawings(runs: Sequence[Run]) -> Iterator[Drawing]:
    references = figures.reference_names(runs)
    dashed = " Dashed: reference tasks, statements found in the corpus." if references else ""
    scores, kept = score_table(runs), retention_table(runs)
    for task in label_tasks(runs):
        losses = measurements(runs, f"eval/{task}/test/loss")
        of_references = [measurements(runs, f"eval/{name}/reference/loss") for name in references]
        for name, figure, caption, data in (
            (
                f"train-loss-{task}",
                loss_heatmap(runs, task),
                "loss of LABEL on the train half at the last evaluation, over model size and frequency.",
                rows(scores, task=task),
            ),
            (
                f"curves-{task}",
                figures.learning_curves(runs, task),
                "loss of LABEL on the test half over steps." + dashed,
                pd.concat([losses, *of_references]),
            ),
            (
                f"gap-loss-{task}",
                gap_losses(runs, task),
                "loss on the test half against the gap between observations at equal long-run frequency: mean over the "
                "last quarter of the run, bars from the 10th to the 90th percentile.",
                losses,
            ),
            (
                f"retention-{task}",
                figures.retention_curves(runs, task),
                "loss between bursts, and the mean gain since a burst with its standard error. Dashed: fitted decay.",
                rows(kept, task=task) if len(kept) else kept,
            ),
        ):
            if figure is not None:
                yield Drawing(name, figure, f"{task}: {caption}", data)
