"""Write a run folder: everything that is needed to reconstruct the run, before its first step.

experiment.yaml   the resolved experiment          metrics.jsonl    measurements, one per line
config.yaml       ai2-olmo's TrainConfig, if any   evidence.jsonl   what the audit checks
plan.json         totals, units, fingerprints      data-indices/    positions seen, per rank
tasks/NAME.json   tasks as they were built         step*/           checkpoints
references/       reference tasks as evaluated     checkpoints/     another trainer's, beside saved.json
lists/N.parquet   lists of injections, by entry
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmo_inject.config import Described, experiment_yaml
from olmo_inject.data import TaskPlan
from olmo_inject.errors import UserError
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.plan_entries import write_list
from olmo_inject.runs.checkpoints import step_folders
from olmo_inject.runs.read import (
    EVIDENCE_FILE,
    EXPERIMENT,
    INDICES,
    LISTS,
    METRICS,
    PLAN,
    SAVED,
    TASKS,
    is_run,
    list_path,
    read_plan,
)
from olmo_inject.runs.same_run import CONTENTS, check_same_run, fingerprints, lists
from olmo_inject.utils import locks
from olmo_inject.utils.described_yaml import to_yaml
from olmo_inject.utils.files import read_json, write_json, write_text
from olmo_inject.utils.owned_folder import remove_empty

STOP_FILE = "stop"
CHECKPOINTS = "checkpoints"  # other trainers may keep their checkpoints here, and may create it before the run begins
FORMAT = 1


def prepare(experiment: Described, data: TaskPlan, first_step: int = 0, folder: Path | None = None) -> None:
    """Write the description of a new run, or check that the folder holds this run (one process).

    Args:
        experiment: the run.
        data: its corpus, tasks and plan.
        first_step: the step that comes next; of a new run not 0 if it branches off another.
        folder: where it is written; None: the run's folder.

    Raises:
        UserError: the folder holds something else, or a run that differs in more than a resume may change; or as in
            `check_branch`.
    """
    folder = experiment.run_folder if folder is None else folder
    # A resume writes the plan again, since the run may be longer; id, first step and recorded contents stay.
    before: dict[str, Any] = {"run_id": uuid.uuid4().hex, "first_step": first_step}
    if is_run(folder):
        check_same_run(experiment, data)
        before = {"first_step": 0} | read_plan(folder)  # older runs do not record it
    else:
        check_branch(experiment, first_step)
    begun = before["first_step"]
    summary = {"format": FORMAT, "run_id": before["run_id"], "first_step": begun}
    contents = {name: value for name, value in before.get("fingerprints", {}).items() if name == CONTENTS}
    about = {"made_in": str(Path.cwd()), "fingerprints": contents | fingerprints(data)}
    if (train := getattr(experiment, "train", None)) is not None and train.save_data_indices:
        summary["indices_from"] = min(before.get("indices_from", first_step), first_step)
    # The plan comes first, since it marks the folder as a run; the experiment comes last and completes it.
    write_json(folder / PLAN, summary | plan_summary(experiment, data, begun) | about)
    for task in data.tasks:
        task.save(folder / TASKS)
    for number, listed in lists(data.plan):
        write_list(listed, data.plan.entries[number].task, list_path(folder, number))
    if train is not None:
        write_text(folder / "config.yaml", to_yaml(train))
    write_text(folder / EXPERIMENT, experiment_yaml(experiment))


def check_branch(experiment: Described, first_step: int) -> None:
    """Check that a new run gives all repetitions, though it begins at `first_step`, where it branches off another.

    Raises:
        UserError: some would be in steps before.
    """
    for entry in experiment.injections:
        if entry.schedule == "repetitions" and entry.start < first_step:
            raise UserError(
                f"injections: {entry.task}: start {entry.start} of its repetitions is before step {first_step}, where "
                f"the run branches off, so fewer than times: {entry.times} would be left; give start: {first_step} or "
                "later"
            )


def check_no_other_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Check that a folder is new, empty or a run folder, before anything is written to it.

    Args:
        folder: the run folder.
        overwrite: accept the rest of a run whose deletion was interrupted.

    Raises:
        UserError: the folder holds something else, which no option deletes.
    """
    if not folder.exists() or is_run(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    # A killed command may leave a temporary file.
    may_be_there = {locks.LOCK, "order", STOP_FILE, CHECKPOINTS}
    names = {entry.name for entry in folder.iterdir() if not entry.match(".*.tmp")} - may_be_there
    if names and not _is_marked(folder):
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    if not overwrite and not names <= {PLAN, TASKS, LISTS, "config.yaml"}:
        raise UserError(f"{folder} holds the rest of a run whose deletion was interrupted; --overwrite finishes it")


def _is_marked(folder: Path) -> bool:
    """Whether the folder has the plan of a run."""
    try:
        plan = read_json(folder / PLAN)
    except UserError:
        return False
    return isinstance(plan, dict) and {"run_id", "fingerprints"} <= plan.keys()


def delete_run(folder: Path) -> None:
    """Delete the files of a run for `--overwrite`, and nothing else in its folder.

    `plan.json` stays until the new run's replaces it, so that after a kill the folder is still marked as a run's.

    Raises:
        UserError: the folder holds something other than a run.
    """
    check_no_other_folder(folder, overwrite=True)
    (folder / EXPERIMENT).unlink(missing_ok=True)  # first, since without it no command resumes the rest
    for path in _written(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for place in (TASKS, LISTS, "references", INDICES, "analysis"):
        remove_empty([folder / place])


def _written(folder: Path) -> list[Path]:
    """The files of a run and of its analyses, except `plan.json` and `experiment.yaml`."""
    names = (*("config.yaml", METRICS, EVIDENCE_FILE, STOP_FILE, SAVED, "order", ".*.tmp", ".step*.old"),)
    inside = ("tasks/*.json", "references/*.json", f"{INDICES}/*.tsv", "tasks/.*.tmp", "references/.*.tmp")
    inside += (f"{LISTS}/*.parquet", f"{LISTS}/.*.tmp")
    analyses = ["analysis/jobs", *(f"analysis/*.{ending}" for ending in ("json", "parquet", "svg", "png"))]
    written = [path for pattern in (*names, *inside, *analyses) for path in folder.glob(pattern)]
    return written + step_folders(folder) + [about.parent.parent for about in folder.glob("analysis/*/*/about.json")]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process. The lock ends with the process, however the process ends.

    Raises:
        UserError: another process trains in it, or the file system cannot lock.
    """
    in_use = f"{folder} is in use: another process is training this run"
    with locks.locked(folder / locks.LOCK, lambda: in_use, f"the run folder {folder}"):
        yield


def remove_unused(folder: Path, made: Sequence[Path]) -> None:
    """Remove a run folder that holds only the lock, which this process holds.

    Args:
        folder: the run folder.
        made: the run folder and those of its parents that were created for it.
    """
    if made and [entry.name for entry in folder.iterdir()] == [locks.LOCK]:
        (folder / locks.LOCK).unlink()
        remove_empty(made)


def in_use(folder: Path) -> bool:
    """Whether a process trains in the folder: on this machine, or on any if the shared file system has locks."""
    return locks.is_held(folder / locks.LOCK)
