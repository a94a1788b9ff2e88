"""A run's folder: everything the run can be reconstructed from, written before its first step.

experiment.yaml   the resolved experiment          metrics.jsonl    measurements, one a line
config.yaml       ai2-olmo's TrainConfig, if any   evidence.jsonl   what the audit checks
plan.json         totals, units, fingerprints      data-indices/    positions seen, per rank
tasks/NAME.json   tasks as they were built         step*/           checkpoints
references/       reference tasks as evaluated       checkpoints/     another trainer's, beside saved.json
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

from omegaconf import OmegaConf

from olmo_inject import locks
from olmo_inject.config import Described, experiment_yaml
from olmo_inject.data import ExperimentData, TaskPlan
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, remove_empty, write_json, write_text
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.runs.read import (
    EVIDENCE_FILE,
    EXPERIMENT,
    METRICS,
    PLAN,
    SAVED,
    TASKS,
    SavedRun,
    is_run,
    read_experiment,
    read_plan,
)

STOP_FILE = "stop"
CHECKPOINTS = "checkpoints"  # where another trainer than ai2-olmo's may keep its own, and make it before the run begins
FORMAT = 1

# What a resume may change: how a step is computed and what is recorded, never what is computed.
MAY_CHANGE = (
    "name",
    "folder",
    "checkpoints",
    "evaluation",
    "gradients",
    "references",
    "safety",
    "train.device_train_microbatch_size",
    "train.device_eval_batch_size",
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
    "train.speed_monitor",
    "train.wandb",
    "train.time_limit",
    "train.save_data_indices",
    "train.python_profiling",
    "train.torch_profiling",
    # Where the corpus lies may change; what it is, is compared by fingerprint.
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
CONTENTS = "corpus contents"  # the fingerprint that not every way of naming a corpus knows


def fingerprints(data: TaskPlan) -> dict[str, str]:
    """What must be the same on a resume and in every analysis; of a corpus that is not ours, tasks and vocabulary."""
    found = {"vocabulary": data.source.vocabulary.fingerprint}
    if isinstance(data, ExperimentData):
        contents, order = data.shards.contents(), data.order
        found = {
            "corpus": data.shards.fingerprint(),
            **({} if contents is None else {CONTENTS: contents}),
            **found,
            "order": f"{order.n_sequences} sequences, batch {order.batch_size}, seed {order.seed}",
        }
    return found | {f"task {task.name}": task.fingerprint for task in data.tasks}


def check_same_data(run: SavedRun, data: TaskPlan) -> None:
    """Refuse data that is not what a run was trained on.

    Raises:
        UserError: what has changed.
    """
    if differing := changed(run.plan["fingerprints"], fingerprints(data)):
        raise UserError(f"{run.folder}: not what the run was trained on any more: {', '.join(differing)}")


def changed(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The names of the fingerprints that differ; the corpus's contents count where both know them."""
    differing = [name for name in {**recorded, **found} if recorded.get(name) != found.get(name)]
    return [name for name in differing if name != CONTENTS or (name in recorded and name in found)]


def prepare(experiment: Described, data: TaskPlan, first_step: int = 0) -> None:
    """Write a new run's description, or check that the folder holds this very run (one process).

    Args:
        experiment: the run.
        data: its corpus, tasks and plan.
        first_step: with which a new run begins, if it branches off.

    Raises:
        UserError: the folder holds something else, or a run that differs in what a resume may not change.
    """
    folder = experiment.run_folder
    # Written again when a run goes on, since it may have been extended; id, first step and known contents stay.
    before: dict[str, Any] = {"run_id": uuid.uuid4().hex}
    if is_run(folder):
        check_same_run(experiment, data)
        before = read_plan(folder)
    summary = {"format": FORMAT, "run_id": before["run_id"], "first_step": before.get("first_step", first_step)}
    known = {name: value for name, value in before.get("fingerprints", {}).items() if name == CONTENTS}
    about = {"made_in": str(Path.cwd()), "fingerprints": known | fingerprints(data)}
    # It marks the folder as a run's, so it comes first; the experiment, which makes the run whole, comes last.
    write_json(folder / PLAN, summary | plan_summary(experiment, data) | about)
    for task in data.tasks:
        task.save(folder / TASKS)
    if (train := getattr(experiment, "train", None)) is not None:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(train)))
    write_text(folder / EXPERIMENT, experiment_yaml(experiment))


def check_no_other_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that holds something else than a run, before anything is written to it.

    Args:
        folder: where a run is to be.
        overwrite: whether what a killed deletion left of a run will do.

    Raises:
        UserError: it does; no option deletes it.
    """
    if not folder.exists() or is_run(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    # A kill may leave one of them half-written, under a name of its own.
    may_be_there = {".lock", "order", STOP_FILE, CHECKPOINTS}
    names = {entry.name for entry in folder.iterdir() if not entry.match(".*.tmp")} - may_be_there
    if names and not _is_marked(folder):
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    if not overwrite and not names <= {PLAN, "tasks", "config.yaml"}:
        raise UserError(f"{folder} holds what is left of a run that was being deleted; --overwrite goes on with that")


def _is_marked(folder: Path) -> bool:
    """Whether the folder has what only a run's has."""
    try:
        plan = read_json(folder / PLAN)
    except UserError:
        return False
    return isinstance(plan, dict) and {"run_id", "fingerprints"} <= plan.keys()


def identity(experiment: Described) -> str:
    """Hash of what a resume may not change: two experiments of one identity are the same run."""
    fixed = {key: value for key, value in _flat(experiment).items() if not _may_change(key, experiment)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def check_same_run(experiment: Described, data: TaskPlan) -> None:
    """Refuse a resume that would not be the same run.

    Raises:
        UserError: what differs.
    """
    folder = experiment.run_folder
    differing = differences(read_experiment(folder), experiment)
    if not differing:
        found = changed(read_plan(folder)["fingerprints"], fingerprints(data))
        differing = [f"{name} {'have' if name == CONTENTS else 'has'} changed" for name in found]
    if differing:
        raise UserError(
            f"{folder} is a run of another experiment: {'; '.join(differing)} "
            "(choose another folder, or give --overwrite to delete it)"
        )


def differences(old: Described, new: Described) -> list[str]:
    """What makes `new` another run than `old`, as `key old value -> new value`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key} {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_change(key, new)
    ]


def delete_run(folder: Path) -> None:
    """Delete a run for `--overwrite`: what a run writes, and nothing else that lies in its folder.

    `plan.json` stays until the new run's replaces it: whenever this is killed, it says that the folder is a run's.

    Raises:
        UserError: the folder holds something else than a run.
    """
    check_no_other_folder(folder, overwrite=True)
    (folder / EXPERIMENT).unlink(missing_ok=True)  # first: without it nothing goes on with what is left
    for path in _written(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for place in ("tasks", "references", "data-indices", "analysis"):
        remove_empty([folder / place])


def _written(folder: Path) -> list[Path]:
    """What runs write, and what analyses of them keep there, but for the marks of a run."""
    names = (*("config.yaml", METRICS, EVIDENCE_FILE, STOP_FILE, SAVED, "order", ".*.tmp", ".step*.old"),)
    inside = ("tasks/*.json", "references/*.json", "data-indices/*.tsv", "tasks/.*.tmp", "references/.*.tmp")
    analyses = [f"analysis/*.{ending}" for ending in ("json", "parquet", "svg", "png")]
    found = [path for pattern in (*names, *inside, *analyses) for path in folder.glob(pattern)]
    found += [path for path in folder.glob("step*") if re.fullmatch(r"step\d+", path.name)]
    return found + [about.parent.parent for about in folder.glob("analysis/*/*/about.json")]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the lock goes with the process, however it ends.

    Raises:
        UserError: another process trains in it, or the file system cannot lock.
    """
    in_use = f"{folder} is in use: another process is training this run"
    with locks.locked(folder / ".lock", lambda: in_use, f"the run folder {folder}"):
        yield


def remove_unused(folder: Path, made: Sequence[Path]) -> None:
    """Remove a folder in which nothing but the lock was written, by the process that holds it.

    Args:
        folder: the run's.
        made: it and those above it, as far as they were made for it.
    """
    if made and [entry.name for entry in folder.iterdir()] == [".lock"]:
        (folder / ".lock").unlink()
        remove_empty(made)


def in_use(folder: Path) -> bool:
    """Whether a process of this machine (or of a shared file system that locks) trains in the folder."""
    return locks.is_held(folder / ".lock")


def _may_change(key: str, experiment: Described) -> bool:
    if key == "train.max_duration":
        return experiment.may_extend
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


def _flat(experiment: Described) -> dict[str, str]:
    """Dotted keys to values, entries of lists by their number."""
    out: dict[str, str] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict | list | tuple) and value:
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{prefix}.{name}" if prefix else str(name))
        else:
            out[prefix] = json.dumps(value, default=str)

    walk(asdict(experiment), "")  # pyright: ignore[reportArgumentType]
    return out
