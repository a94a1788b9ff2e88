"""Results of a method, stored beside the run, so that a new checkpoint is the only one to compute.

    RUN/analysis/METHOD/step500-5f0c3a9b12de/about.json      what it was computed from
                                             layers.parquet  and the method's other tables

The folder name ends in a hash of the weights' identity, the method with its version and options, and the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from analysis.read.checkpoints import FOLDER, StoredModel, checkpoint_of, identity
from analysis.read.run_labels import labels
from analysis.read.runs import Run
from analysis.read.skipped import Skipped
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, replacing, sha256_of_json, write_json
from olmo_inject.utils.json_shape import check_shape
from olmo_inject.utils.owned_folder import new_folder
from olmo_inject.utils.progress import show_progress

Tables = dict[str, pd.DataFrame]
Report = Callable[[float], None]  # called with the fraction of the work that is done
ABOUT = "about.json"
# Names that older versions wrote, and their names now.
RENAMED_COLUMNS = {
    "nothing": "no_swap",
    "everything": "full_swap",
    **{f"surprise{end}": f"logprob_drop{end}" for end in ("", "_low", "_high")},
}
RENAMED_WEIGHTS = {"random": "untrained"}


def task_fingerprints(checkpoint: StoredModel) -> Any:
    """The tasks' fingerprints, which most results depend on beside weights and options."""
    return {task.name: task.fingerprint for task in checkpoint.tasks}


@dataclass(frozen=True)
class Method:
    """One analysis of one set of weights.

    Attributes:
        name: of the method and its folder of results.
        compute: takes the model (on its device), the checkpoint and a `Report` function, and returns tables. Raises
            `UserError` if the checkpoint is at fault.
        options: everything beside the weights that decides the result, in JSON types.
        version: increased when the computation changes, so that older results are not mistaken for new ones.
        inputs: everything about the checkpoint beside its weights that decides the result, in JSON types.
        pairs: whether it is of tasks of pairs, with instances TOK1, TOK2, LABEL, or of tasks of texts.
        work: what one checkpoint takes, in words, to be said before if `compute` reports no progress within one; or "".
    """

    name: str
    compute: Callable[[PreTrainedModel, StoredModel, Report], Tables]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    inputs: Callable[[StoredModel], Any] = task_fingerprints
    pairs: bool = True
    work: Callable[[StoredModel], str] = lambda _: ""

    def with_its_tasks(self, checkpoint: StoredModel) -> StoredModel:
        """The checkpoint with those of its tasks that the method is of.

        Raises:
            UserError: it has none.
        """
        tasks = [task for task in checkpoint.tasks if task.is_triples == self.pairs]
        if not tasks:
            kind, other = ("pairs", "memory") if self.pairs else ("texts", "behaviour")
            shown = f"; `analyze {other}` shows its others" if checkpoint.tasks else ""
            raise UserError(f"it has no task of {kind}{shown}")
        return replace(checkpoint, tasks=tasks)


def analyze(checkpoints: Sequence[StoredModel], method: Method, device: torch.device, skipped: Skipped) -> Tables:
    """Apply a method to every checkpoint. Stored results are reused; checkpoints that cannot be analyzed are skipped.

    Args:
        checkpoints: what to analyze.
        method: the analysis.
        device: where the models run.
        skipped: receives a message for each checkpoint that was skipped.

    Returns:
        The method's tables, each joined over checkpoints with the columns of `StoredModel.columns`. Empty if nothing
        could be analyzed.
    """
    joined: dict[str, list[pd.DataFrame]] = {}
    for checkpoint, report in _progress(checkpoints, method.name):
        with skipped.skipping(checkpoint.name):
            _join(joined, checkpoint, result(checkpoint, method, device, report))
    return _concatenated(joined)


def result(checkpoint: StoredModel, method: Method, device: torch.device, report: Report = lambda _: None) -> Tables:
    """The tables of one checkpoint, read if they are stored, computed and stored if not.

    Args:
        checkpoint: what to analyze.
        method: the analysis.
        device: where the model runs.
        report: called with the fraction of the work that is done.

    Raises:
        UserError: the weights cannot be read, the method cannot use them, or the results cannot be written.
    """
    about, folder = _place(checkpoint, method)
    if (folder / ABOUT).is_file():
        with suppress(OSError):  # another user's folder may be readable but not writable
            (folder / ABOUT).touch()  # a report shows the results that were requested last
        return read_tables(folder)
    checkpoint = method.with_its_tasks(checkpoint)
    tables = method.compute(checkpoint.load(device), checkpoint, report)
    _keep(folder, {**about, "step": checkpoint.step}, tables)
    return tables


def is_kept(checkpoint: StoredModel, method: Method) -> bool:
    """Whether the tables of a checkpoint are stored, so that `result` reads them."""
    with suppress(UserError):  # weights that cannot be read; `analyze` says so
        return (_place(checkpoint, method)[1] / ABOUT).is_file()
    return False


def _place(checkpoint: StoredModel, method: Method) -> tuple[dict[str, Any], Path]:
    """What decides the tables of a checkpoint, and the folder that they are stored in."""
    about = {
        "method": method.name,
        "version": method.version,
        "options": dict(method.options),
        "weights": identity(checkpoint.path),
        "inputs": method.inputs(checkpoint),
    }
    key = sha256_of_json(about)[:12]
    return about, checkpoint.folder / method.name / f"{checkpoint.path.name}-{key}"


def kept(folder: Path, method: str, version: int | None = None) -> Iterator[tuple[dict[str, Any], Path]]:
    """The results of each step that were requested last.

    Args:
        folder: a run's `analysis/`.
        method: name of the method.
        version: of the method; any by default.

    Yields:
        The contents of `about.json`, and the folder of the results.
    """
    of_step: dict[int | None, tuple[dict[str, Any], Path]] = {}
    for _, about, place in _asked(folder, method, version):  # a later request replaces an earlier one
        of_step[about["step"]] = about, place
    for step in sorted(of_step, key=lambda step: -1 if step is None else step):
        yield of_step[step]


def _asked(folder: Path, method: str, version: int | None) -> list[tuple[float, dict[str, Any], Path]]:
    """Time of the last request, `about.json` and folder of each stored result, the latest request last."""
    files = (folder / method).glob(f"*/{ABOUT}")
    results = [(file.stat().st_mtime, _about(file), file.parent) for file in files]
    mine = [one for one in results if version in (None, one[1]["version"])]
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
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise UserError(f"{path} is damaged; delete its folder to compute it again: {error}") from None
    return tables


def _with_new_names(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the current names of columns and controls; older versions used others."""
    table = table.rename(columns=RENAMED_COLUMNS)
    return table.replace({"weights": RENAMED_WEIGHTS}) if "weights" in table else table


@dataclass(frozen=True)
class StoredResults:
    """Stored results of a method for a set of runs, all with the options that were requested last.

    Attributes:
        tables: joined as by `analyze`; empty if nothing is stored.
        options: of the method.
        left_out: number of steps that only have results with other options.
    """

    tables: Tables
    options: Mapping[str, Any]
    left_out: int


def kept_results(runs: Sequence[Run], method: str, version: int = 1) -> StoredResults:
    """The stored results of runs' checkpoints, with the options that were requested last for any of them.

    Results of checkpoints that have been deleted are included. Results of another version of the method are not, since
    their columns may differ.

    Args:
        runs: whose results are read.
        method: name of the method.
        version: of the method.

    Raises:
        UserError: a table is damaged.
    """
    results_of = {run.folder: _asked(run.folder / FOLDER, method, version) for run in runs}
    last = max((asked[-1] for asked in results_of.values() if asked), key=lambda one: one[0], default=None)
    if last is None:
        return StoredResults({}, {}, 0)
    options = last[1]["options"]
    joined: dict[str, list[pd.DataFrame]] = {}
    left_out = 0
    for run in runs:
        places = {about["step"]: place for _, about, place in results_of[run.folder] if about["options"] == options}
        for step in sorted(places):
            _join(joined, checkpoint_of(run, step), read_tables(places[step]))
        left_out += len({about["step"] for _, about, _ in results_of[run.folder]} - places.keys())
    return StoredResults(_concatenated(joined), options, left_out)


def _join(joined: dict[str, list[pd.DataFrame]], checkpoint: StoredModel, tables: Tables) -> None:
    for name, table in tables.items():
        for place, (column, value) in enumerate(checkpoint.columns().items()):
            table.insert(place, column, value)
        joined.setdefault(name, []).append(table)


def _concatenated(joined: Mapping[str, Sequence[pd.DataFrame]]) -> Tables:
    """Concatenate each table over all checkpoints, and make the labels in its column `run` unique."""
    return {name: _told_apart(pd.concat(tables, ignore_index=True)) for name, tables in joined.items()}


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    label_of = labels(zip(table["run"], table["folder"], strict=True))
    return table.assign(run=[label_of[folder] for folder in table["folder"]])


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
    """Each checkpoint, with a function that moves the progress bar within it."""
    with show_progress(method, len(checkpoints), "checkpoints") as meter:
        for number, checkpoint in enumerate(checkpoints):
            meter.update(number, checkpoint.name)
            yield checkpoint, lambda share, before=number, name=checkpoint.name: meter.update(before + share, name)
            meter.update(number + 1, checkpoint.name)
