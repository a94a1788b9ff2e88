"""Collect finished cells of a sweep into small files of the repository, so that no result depends on a run folder.

    python -m analysis.study collect

Each call adds the cells that have finished since the last one as a part of their own: `results/SWEEP/000.parquet` holds
measurements (cell, step, name, value) and `000.jsonl` a line for each cell: what it was, its audit, its fingerprints,
and what the analyses find in its last checkpoint.
Parts are never changed. Evaluations and gradient cosines are kept at every step, what is measured in training as means
over blocks of steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from analysis.methods import das, patching
from analysis.methods.feature_amounts import amounts
from analysis.methods.features import FOURIER, ORDER, features_method
from analysis.read.checkpoints import checkpoint_of
from analysis.read.runs import Run, read_run
from analysis.read.skipped import Skipped
from analysis.read.store import Method, Tables, analyze, rows
from launch.cells import DONE, files, statuses
from launch.sweep import Cell, Sweep, load_sweep
from olmo_inject.audit import audit_run
from olmo_inject.config import Experiment
from olmo_inject.errors import UserError
from olmo_inject.utils.files import replacing
from olmo_inject.utils.locks import LOCK, in_turn

RESULTS = Path(__file__).with_name("results")
BLOCK = 50  # steps whose training measurements become one mean, named by the first of them
COMPONENTS = 2  # of the order probe: with twelve values more would fit anything
PATCHED_PAIRS = 256
SEARCH = das.SearchOptions()
NO_ROWS = pd.DataFrame(columns=["task", "weights", "layer", "effect", "effect_low", "whole"])
LEFT_OUT = ("speed/", "optim/")


def collect(name: str, results: Path = RESULTS) -> int:
    """Add the finished cells of a sweep that are not there yet.

    Args:
        name: of a sweep in configs/sweeps, or its file.
        results: the folder of all sweeps' results.

    Returns:
        How many were added.

    Raises:
        UserError: no such sweep, or a run folder that is damaged.
    """
    sweep = load_sweep(name)
    folder = results / sweep.name
    with in_turn(results / LOCK):
        there = {record["cell"] for record in read_cells(folder)}
        states = {status.cell: status.state for status in statuses(sweep, {})}
        new = [cell for cell in sweep.cells if cell.name not in there and states[cell.name] == DONE]
        if new:
            folder.mkdir(parents=True, exist_ok=True)
            _write_part(folder, len(list(folder.glob("*.jsonl"))), sweep, new)
    return len(new)


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """The cells of a sweep's results, in the order of parts."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def read_metrics(folder: Path) -> pd.DataFrame:
    """The measurements of a sweep's results: cell, step, name, value."""
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)


def _write_part(folder: Path, number: int, sweep: Sweep, cells: list[Cell]) -> None:
    frames = [_measurements(sweep, cell) for cell in cells]
    records = [_record(sweep, cell) for cell in cells]
    table = pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)
    with replacing(folder / f"{number:03}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=19, use_byte_stream_split=["value"])  # pyright: ignore[reportArgumentType]: or columns
    # The lines come last: without them a part does not count.
    with replacing(folder / f"{number:03}.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))


def _measurements(sweep: Sweep, cell: Cell) -> pd.DataFrame:
    metrics = read_run(files(sweep, cell).run).metrics
    metrics = metrics.loc[~metrics["name"].str.startswith(LEFT_OUT)].dropna(subset=["value"])
    training = metrics["name"].str.startswith("train/")
    blocks = metrics[training].assign(step=metrics["step"] // BLOCK * BLOCK)
    thinned = blocks.groupby(["name", "step"], as_index=False)["value"].mean()
    kept = pd.concat([metrics.loc[~training, ["name", "step", "value"]], thinned], ignore_index=True)
    return pd.DataFrame(
        {
            "cell": pd.Categorical([cell.name] * len(kept)),
            "step": kept["step"].astype(np.int32),
            "name": kept["name"].astype("category"),
            "value": kept["value"].astype(np.float32),
        }
    )


def _record(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    run = read_run(files(sweep, cell).run)
    assert isinstance(run.experiment, Experiment)
    audit = audit_run(run.folder, progress=False)
    return {
        "sweep": sweep.name,
        "cell": cell.name,
        "labels": cell.labels,
        "overrides": list(cell.overrides),
        "identity": cell.identity,
        "steps": run.steps_done,
        "window": run.steps_done - max(window.start for window in run.experiment.evaluation.also.windows),
        "width": run.experiment.model.d_model,
        "parameters": run.parameters,
        "fingerprints": run.plan["fingerprints"],
        "injections": {entry.task: asdict(entry) for entry in run.experiment.injections},
        "audit": {"passed": audit.passed, "comparisons": sum(audit.checks.values()), "differences": audit.differences},
        "tasks": [asdict(task.config) for task in run.tasks],
        "features": _features(run),
        "alignment": _alignment(run),
        "patching": _patching(run),
    }


def _features(run: Run) -> list[dict[str, Any]]:
    """How much of each task's features the last checkpoint has (Fig. 7), with controls: a row a task and feature."""
    tables = _analyzed(run, features_method(components=COMPONENTS))
    columns = ["task", "feature", "amount", "low", "high", "untrained", "shuffled", "distinct", "distinct_shuffled"]
    features = pd.concat([amounts(tables, feature) for feature in (ORDER, FOURIER)], ignore_index=True)
    return _records(features, [column for column in columns if column in features])


def _alignment(run: Run) -> list[dict[str, Any]]:
    """Where the last checkpoint holds each value best, by alignment search: a row a task and value."""
    sites = _analyzed(run, das.method(SEARCH)).get("sites", NO_ROWS)
    columns = ["task", "position", "variable", "layer", "dimension", "accuracy", "control", "converged"]
    best_sites = [
        {"task": task} | best
        for task, of_task in sites.groupby("task")
        for question in das.QUESTIONS
        if (of_task[["position", "variable"]] == question).all(axis=1).any()
        for best in [das.best_place(of_task, question)]
    ]
    return _records(pd.DataFrame(best_sites, columns=columns), columns)


def _patching(run: Run) -> list[dict[str, Any]]:
    """The effect of every MLP of the last checkpoint, by activation patching: a row a task and layer."""
    layers = _analyzed(run, patching.method(PATCHED_PAIRS)).get("layers", NO_ROWS)
    return _records(rows(layers, weights="trained"), ["task", "layer", "effect", "effect_low", "whole"])


def _analyzed(run: Run, method: Method) -> Tables:
    """The method's tables for the last checkpoint. What cannot be analyzed is not recorded as if there were nothing."""
    skipped = Skipped()
    tables = analyze([checkpoint_of(run, run.steps_done)], method, torch.device("cpu"), skipped)
    if skipped.messages:
        raise UserError("; ".join(skipped.messages))
    return tables


def _records(table: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    return json.loads(str(table.loc[:, columns].to_json(orient="records")))


def parts(results: Path = RESULTS) -> Iterator[Path]:
    """The folders of sweeps with results.

    Raises:
        UserError: there is no such folder.
    """
    if not results.is_dir():
        raise UserError(f"{results}: there are no results; `python -m analysis.study collect` writes them")
    return (folder for folder in sorted(results.iterdir()) if folder.is_dir() and any(folder.glob("*.jsonl")))
