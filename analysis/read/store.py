"""Results of a method on checkpoints, kept beside the run, so that adding a checkpoint computes only it.

    RUN/analysis/METHOD/step500-5f0c3a9b12de/about.json    what it was computed from
                                             layers.parquet  and the method's other tables

The name ends in a hash of the weights' identity, the method with its version and options, and the tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis.read.checkpoints import FOLDER, StoredModel, checkpoint_of, identity
from analysis.read.labels import labels
from analysis.read.runs import Run
from analysis.read.skipped import Skipped
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, replacing, write_json
from olmo_inject.owned_folder import new_folder
from olmo_inject.progress import show_progress
from olmo_inject.shapes import check_shape

Tables = dict[str, pd.DataFrame]
Report = Callable[[float], None]  # takes the share of a piece of work that is done
ABOUT = "about.json"
# What older versions wrote, and what it is called now.
RENAMED_COLUMNS = {
    "nothing": "no_swap",
    "everything": "full_swap",
    **{f"surprise{end}": f"logprob_drop{end}" for end in ("", "_low", "_high")},
}
RENAMED_WEIGHTS = {"random": "untrained"}


def task_fingerprints(checkpoint: StoredModel) -> Any:
    """What most results depend on beside weights and options."""
    return {task.name: task.fingerprint for task in checkpoint.tasks}


@dataclass(frozen=True)
class Method:
    """One analysis of one set of weights.

    Attributes:
        name: of its folder of results.
        compute: from the model, on its device, to tables; says now and then how far it is, and raises `UserError`
            where the checkpoint is at fault.
        options: all that decides the result beside the weights, in JSON's types.
        version: raised when the computation changes, so that older results are not taken for new ones.
        inputs: what of the checkpoint decides the result beside its weights, in JSON's types.
    """

    name: str
    compute: Callable[[PreTrainedModel, StoredModel, Report], Tables]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    inputs: Callable[[StoredModel], Any] = task_fingerprints


def analyze(checkpoints: Sequence[StoredModel], method: Method, device: torch.device, skipped: Skipped) -> Tables:
    """Apply a method to every checkpoint, each computed once and for all; what cannot be analyzed is skipped.

    Returns:
        The method's tables, each joined over checkpoints under the columns of `StoredModel.columns`. Empty if
        nothing could be analyzed.
    """
    joined: dict[str, list[pd.DataFrame]] = {}
    for checkpoint, report in _progress(checkpoints, method.name):
        with skipped.skipping(checkpoint.name):
            _join(joined, checkpoint, result(checkpoint, method, device, report))
    return _concatenated(joined)


def result(checkpoint: StoredModel, method: Method, device: torch.device, report: Report = lambda _: None) -> Tables:
    """The tables of one checkpoint: read, or else computed and kept; `report` is told how far it is.

    Raises:
        UserError: the weights cannot be read, the method cannot use them, or the results cannot be written.
    """
    about = {
        "method": method.name,
        "version": method.version,
        "options": dict(method.options),
        "weights": identity(checkpoint.path),
        "inputs": method.inputs(checkpoint),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder = checkpoint.folder / method.name / f"{checkpoint.path.name}-{key}"
    if (folder / ABOUT).is_file():
        with suppress(OSError):  # a folder of someone else's may be read all the same
            (folder / ABOUT).touch()  # a report shows what was asked for last
        return read_tables(folder)
    if not checkpoint.tasks:
        raise UserError("it has no task")
    tables = method.compute(checkpoint.load(device), checkpoint, report)
    _keep(folder, {**about, "step": checkpoint.step}, tables)
    return tables


def kept(folder: Path, method: str, version: int | None = None) -> Iterator[tuple[dict[str, Any], Path]]:
    """Of each step below a run's `analysis/` the results last asked for: what they are of, and where.

    Args:
        folder: a run's `analysis/`.
        method: by name.
        version: of the method; by default any.
    """
    of_step: dict[int | None, tuple[dict[str, Any], Path]] = {}
    for _, about, place in _asked(folder, method, version):  # a later one replaces
        of_step[about["step"]] = about, place
    for step in sorted(of_step, key=lambda step: -1 if step is None else step):
        yield of_step[step]


def _asked(folder: Path, method: str, version: int | None) -> list[tuple[float, dict[str, Any], Path]]:
    """When, of what and where results are kept, those last asked for at the end."""
    files = (folder / method).glob(f"*/{ABOUT}")
    found = [(file.stat().st_mtime, _about(file), file.parent) for file in files]
    mine = [one for one in found if version in (None, one[1]["version"])]
    return sorted(mine, key=lambda one: one[0])


def _about(file: Path) -> dict[str, Any]:
    about = read_json(file)
    check_shape(about, {"step": (None, int), "version": int, "options": dict}, str(file))
    return about


def read_tables(folder: Path) -> Tables:
    """The tables in a folder of results.

    Raises:
        UserError: one is damaged.
    """
    tables: Tables = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            tables[path.stem] = _with_new_names(pd.read_parquet(path))
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these
            raise UserError(f"{path} is damaged, delete its folder to compute it again: {error}") from None
    return tables


def _with_new_names(table: pd.DataFrame) -> pd.DataFrame:
    """A table that an older version wrote, with the names of now."""
    table = table.rename(columns=RENAMED_COLUMNS)
    return table.replace({"weights": RENAMED_WEIGHTS}) if "weights" in table else table


@dataclass(frozen=True)
class StoredResults:
    """What a method left in the folders of runs, all of the options that were asked for last.

    Attributes:
        tables: joined as `analyze` does; empty where nothing is kept.
        options: of the method.
        left_out: steps of runs of which there are results of other options alone.
    """

    tables: Tables
    options: Mapping[str, Any]
    left_out: int


def kept_results(runs: Sequence[Run], method: str, version: int = 1) -> StoredResults:
    """The results of runs' checkpoints, of the options that were asked for last of any of them.

    Results of a checkpoint that is no more are among them: it was what it was. Those of another version of the
    method are not, whose tables may have other columns.

    Raises:
        UserError: a table is damaged.
    """
    found = {run.folder: _asked(run.folder / FOLDER, method, version) for run in runs}
    last = max((asked[-1] for asked in found.values() if asked), key=lambda one: one[0], default=None)
    if last is None:
        return StoredResults({}, {}, 0)
    options = last[1]["options"]
    joined: dict[str, list[pd.DataFrame]] = {}
    left_out = 0
    for run in runs:
        places = {about["step"]: place for _, about, place in found[run.folder] if about["options"] == options}
        for step in sorted(places):
            _join(joined, checkpoint_of(run, step), read_tables(places[step]))
        left_out += len({about["step"] for _, about, _ in found[run.folder]} - places.keys())
    return StoredResults(_concatenated(joined), options, left_out)


def _join(joined: dict[str, list[pd.DataFrame]], checkpoint: StoredModel, tables: Tables) -> None:
    for name, table in tables.items():
        for place, (column, value) in enumerate(checkpoint.columns().items()):
            table.insert(place, column, value)
        joined.setdefault(name, []).append(table)


def _concatenated(joined: Mapping[str, Sequence[pd.DataFrame]]) -> Tables:
    """Each table over all checkpoints, whose column `run` tells folders apart."""
    return {name: _told_apart(pd.concat(tables, ignore_index=True)) for name, tables in joined.items()}


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    found = labels(zip(table["run"], table["folder"], strict=True))
    return table.assign(run=[found[folder] for folder in table["folder"]])


def rows(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows in which each named column has the given value."""
    chosen = np.ones(len(table), bool)
    for column, value in values.items():
        chosen &= (table[column] == value).to_numpy(bool)
    return table.loc[chosen]


def last_step(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last checkpoint of each folder."""
    last = table.groupby("folder")["step"].transform("max")
    return table.loc[(table["step"] == last).to_numpy(bool)]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write one table as Parquet, whole or not at all."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def _keep(folder: Path, about: Mapping[str, Any], tables: Tables) -> None:
    """Write a folder of results, whole or not at all."""
    with new_folder(folder, overwrite=True) as temporary:
        for name, table in tables.items():
            write_table(table, temporary / f"{name}.parquet")
        write_json(temporary / ABOUT, about)


def _progress(checkpoints: Sequence[StoredModel], method: str) -> Iterator[tuple[StoredModel, Report]]:
    """Each checkpoint, with what moves the bar within it."""
    with show_progress(method, len(checkpoints), "checkpoints") as meter:
        for number, checkpoint in enumerate(checkpoints):
            meter.update(number, checkpoint.name)
            yield checkpoint, lambda share, before=number, name=checkpoint.name: meter.update(before + share, name)
            meter.update(number + 1, checkpoint.name)
