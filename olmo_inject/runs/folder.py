"""Write a run folder: everything that is needed to reconstruct the run, before its first step.

experiment.yaml   the resolved experiment          metrics.jsonl    measurements, one per line
config.yaml       ai2-olmo's TrainConfig, if any   evidence.jsonl   what the audit checks
plan.json         totals, units, fingerprints      data-indices/    positions seen, per rank
tasks/NAME.json   tasks as they were built         step*/           checkpoints
references/       reference tasks as evaluated     checkpoints/     another trainer's, beside saved.json
lists/N.parquet   lists of injections, by entry
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from olmo_inject import locks
from olmo_inject.config import Described, Experiment, experiment_yaml
from olmo_inject.data import ExperimentData, TaskPlan
from olmo_inject.described_yaml import to_yaml
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json, write_text
from olmo_inject.injection import Listed, Plan
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.owned_folder import remove_empty
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
    TASK_FINGERPRINT,
    TASKS,
    SavedRun,
    is_run,
    list_path,
    read_experiment,
    read_plan,
)

STOP_FILE = "stop"
CHECKPOINTS = "checkpoints"  # other trainers may keep their checkpoints here, and may create it before the run begins
FORMAT = 1

# A resume may change these. They decide how a step is computed and what is recorded, never what is computed.
MAY_CHANGE = (
    "name",
    "folder",
    "checkpoints",
    "evaluation",
    "gradients",
    "references",
    "safety",
    "train.device_train_microbatch_size",
    "train.distributed_strategy",
    "train.fsdp",
    "train.ddp",
    "train.activation_checkpointing",
    "train.compile",
    "train.data.num_workers",
    "train.data.pin_memory",
    "train.data.prefetch_factor",
    "train.data.persistent_workers",
    "train.data.timeout",
    "train.save_interval",
    "train.save_num_checkpoints_to_keep",
    "train.eval_interval",
    "eval_interval",
    "train.console_log_interval",
    "train.gen1_gc_interval",
    "train.wandb",
    "train.time_limit",
    "train.save_data_indices",
    "train.python_profiling",
    "train.torch_profiling",
    # The corpus may move; its fingerprint shows whether it is the same.
    "corpus.name",
    "corpus.root",
    "corpus.manifest",
    "corpus.folder",
    "corpus.paths",
    "corpus.dtype",
    "corpus.tokenizer",
    "corpus.vocab_size",
    "corpus.eos_token_id",
    "corpus.pad_token_id",
)
_WITHIN = tuple(f"{key}." for key in MAY_CHANGE)
CONTENTS = "corpus contents"  # name of a fingerprint that only some kinds of corpus have
LIST_FINGERPRINT = "list of injections "  # begins the names of the fingerprints of lists in `plan.json`


def fingerprints(data: TaskPlan) -> dict[str, str]:
    """The fingerprints that must stay equal on a resume and in every analysis; the corpus's if we read its rows."""
    prints = {"vocabulary": data.source.vocabulary.fingerprint}
    if isinstance(data, ExperimentData):
        contents, order = data.shards.contents(), data.order
        prints = {
            "corpus": data.shards.fingerprint(),
            **({} if contents is None else {CONTENTS: contents}),
            **prints,
            "order": f"{order.n_sequences} sequences, batch {order.batch_size}, seed {order.seed}",
        }
    return {
        **prints,
        **{f"{TASK_FINGERPRINT}{task.name}": task.fingerprint for task in data.tasks},
        **{f"{LIST_FINGERPRINT}{number}": listed.fingerprint for number, listed in lists(data.plan)},
    }


def lists(plan: Plan) -> list[tuple[int, Listed]]:
    """The lists of injections that a plan follows, with the numbers of their entries."""
    return [(n, entry.schedule) for n, entry in enumerate(plan.entries) if isinstance(entry.schedule, Listed)]


def check_same_data(run: SavedRun, data: TaskPlan) -> None:
    """Check that `data` is what the run was trained on.

    Raises:
        UserError: it is not; the message says what differs.
    """
    if differing := changed(run.plan["fingerprints"], fingerprints(data)):
        raise UserError(f"{run.folder}: changed since the run was trained: {', '.join(differing)}")


def changed(recorded: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """The names of the fingerprints that differ. Those of the corpus's contents are compared only if both exist."""
    differing = [name for name in {**recorded, **current} if recorded.get(name) != current.get(name)]
    return [name for name in differing if name != CONTENTS or (name in recorded and name in current)]


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


def identity(experiment: Described) -> str:
    """A hash of all that a resume may not change. Experiments with the same identity are the same run."""
    return hashlib.sha256(json.dumps(settings(experiment), sort_keys=True).encode()).hexdigest()[:16]


def settings(experiment: Described) -> dict[str, str]:
    """All that a resume may not change: JSON values by dotted key, entries of lists by their number."""
    return {key: value for key, value in _flat(experiment).items() if not _may_change(key, experiment)}


def check_same_run(experiment: Described, data: TaskPlan) -> None:
    """Check that a resume would continue the same run.

    Raises:
        UserError: it would not; the message says what differs.
    """
    folder = experiment.run_folder
    differing = differences(read_experiment(folder), experiment)
    if not differing:
        names = changed(read_plan(folder)["fingerprints"], fingerprints(data))
        differing = [f"{name} {'have' if name == CONTENTS else 'has'} changed" for name in names]
    if differing:
        delete = "give --overwrite to delete it" if isinstance(experiment, Experiment) else "delete it"
        raise UserError(
            f"{folder} is a run of another experiment: {'; '.join(differing)} (choose another folder, or {delete})"
        )


def differences(old: Described, new: Described) -> list[str]:
    """The settings that make `new` a different run from `old`, as `key old value -> new value`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key} {before.get(key)} -> {after.get(key)}{_what_keeps(key, before)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_change(key, new)
    ]


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


def _may_change(key: str, experiment: Described) -> bool:
    if key == "train.max_duration":
        return experiment.may_extend
    if re.fullmatch(r"injections\.\d+\.file", key):  # a list may move, as a corpus may
        return True
    return key in MAY_CHANGE or key.startswith(_WITHIN)


def _what_keeps(key: str, before: Mapping[str, str]) -> str:
    """How the end of repetitions, which another number of steps may change, stays as it was; "" for other settings."""
    match = re.fullmatch(r"(injections\.\d+\.)stop", key)
    if match is None or before.get(f"{match[1]}schedule") != '"repetitions"':
        return ""
    return f" (the repetitions are spread up to step {before[key]}: give stop: {before[key]}, and no fewer steps)"


def _flat(experiment: Described) -> dict[str, str]:
    """Dotted keys to values, entries of lists by their number.

    `stop` of repetitions is where they end, since that decides their steps, whether it is written or the run's end.
    """
    out: dict[str, str] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict | list | tuple) and value:
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{prefix}.{name}" if prefix else str(name))
        else:
            out[prefix] = json.dumps(value, default=str)

    walk(asdict(experiment), "")  # pyright: ignore[reportArgumentType]
    for number, entry in enumerate(experiment.injections):
        if entry.schedule == "repetitions":
            out[f"injections.{number}.stop"] = json.dumps(experiment.window(entry).stop)
    return out
