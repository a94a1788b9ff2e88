"""A run's folder: everything the run can be reconstructed from, written before its first step.

experiment.yaml   the resolved experiment          metrics.jsonl    measurements, one a line
config.yaml       ai2-olmo's TrainConfig           evidence.jsonl   what the audit checks
plan.json         totals, units, fingerprints      data-indices/    positions seen, per rank
tasks/NAME.json   tasks as they were built         step*/           checkpoints
references/       reference tasks as evaluated
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from olmo.config import SchedulerType
from omegaconf import OmegaConf

from olmo_inject import files
from olmo_inject.config import Experiment, experiment_yaml, load_experiment
from olmo_inject.data import ExperimentData
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json, write_text
from olmo_inject.plan_summary import plan_summary
from olmo_inject.tasks import Task

EXPERIMENT = "experiment.yaml"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
STOP_FILE = "stop"
AUDIT = Path("analysis", "audit.json")  # the record of the last audit
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
_UNENDING = (
    SchedulerType.constant,
    SchedulerType.constant_with_warmup,
    SchedulerType.inverse_sqrt_with_warmup,
)


def fingerprints(data: ExperimentData) -> dict[str, str]:
    """What must be the same on a resume and in every analysis."""
    order = f"{data.order.n_sequences} sequences, batch {data.order.batch_size}, seed {data.order.seed}"
    contents = data.shards.contents()
    return {
        "corpus": data.shards.fingerprint(),
        **({} if contents is None else {CONTENTS: contents}),
        "vocabulary": data.source.vocabulary.fingerprint,
        "order": order,
        **{f"task {task.name}": task.fingerprint for task in data.tasks},
    }


def changed(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The names of the fingerprints that differ; the corpus's contents count where both know them."""
    differing = [name for name in {**recorded, **found} if recorded.get(name) != found.get(name)]
    return [name for name in differing if name != CONTENTS or (name in recorded and name in found)]


def prepare(experiment: Experiment, data: ExperimentData, first_step: int = 0) -> None:
    """Write a new run's description, or check that the folder holds this very run (one process).

    Args:
        experiment: the run.
        data: its corpus, tasks and plan.
        first_step: with which a new run begins, if it branches off.

    Raises:
        UserError: the folder holds something else, or a run that differs in what a resume may not change.
    """
    folder = experiment.run_folder
    if (folder / EXPERIMENT).is_file():
        check_same_run(experiment, data)
    for task in data.tasks:
        task.save(folder / "tasks")
    # Written again when a run goes on, since it may have been extended; id, first step and known contents stay.
    before: dict[str, Any] = {"run_id": uuid.uuid4().hex}
    if (folder / EXPERIMENT).is_file():
        before = read_json(folder / PLAN)
    summary = {"format": FORMAT, "run_id": before["run_id"], "first_step": before.get("first_step", first_step)}
    known = {name: value for name, value in before.get("fingerprints", {}).items() if name == CONTENTS}
    prints = {"fingerprints": known | fingerprints(data)}
    write_json(folder / PLAN, summary | plan_summary(experiment, data) | prints)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(experiment.train)))
    write_text(folder / EXPERIMENT, experiment_yaml(experiment))


def check_no_other_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a run, before anything is written to it.

    Raises:
        UserError: it does; no option deletes it.
    """
    if (
        folder.exists()
        and not (folder / EXPERIMENT).is_file()
        and not (folder.is_dir() and _is_unfinished_start(folder))
    ):
        raise UserError(f"{folder} exists and is not a run; choose another folder")


def _is_unfinished_start(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what `prepare` writes before the experiment, which comes last."""
    # A kill may leave one of them half-written, under a name of its own.
    names = {entry.name for entry in folder.iterdir() if not entry.match(".*.tmp")}
    return names <= {".lock", "tasks", PLAN, "config.yaml", "order", "stop"}


def identity(experiment: Experiment) -> str:
    """Hash of what a resume may not change: two experiments of one identity are the same run."""
    fixed = {key: value for key, value in _flat(experiment).items() if not _may_change(key, experiment)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def check_same_run(experiment: Experiment, data: ExperimentData) -> None:
    """Refuse a resume that would not be the same run.

    Raises:
        UserError: what differs.
    """
    folder = experiment.run_folder
    differing = differences(load_experiment(folder / EXPERIMENT), experiment)
    if not differing:
        found = changed(read_json(folder / PLAN)["fingerprints"], fingerprints(data))
        differing = [f"{name} {'have' if name == CONTENTS else 'has'} changed" for name in found]
    if differing:
        raise UserError(
            f"{folder} is a run of another experiment: {'; '.join(differing)} "
            "(choose another folder, or give --overwrite to delete it)"
        )


def differences(old: Experiment, new: Experiment) -> list[str]:
    """What makes `new` another run than `old`, as `key old value -> new value`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key} {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_change(key, new)
    ]


def is_run(path: Path) -> bool:
    """Whether the folder is a run's."""
    return (path / EXPERIMENT).is_file()


def expand(paths: Sequence[Path]) -> list[Path]:
    """Each path, or the runs below one that is no run itself but a folder of runs, or a sweep's folder.

    Raises:
        UserError: a path that does not exist, or one given twice.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        below = (
            [] if is_run(path) else sorted(path.glob(f"*/{EXPERIMENT}")) or sorted(path.glob(f"runs/*/{EXPERIMENT}"))
        )
        found += [file.parent for file in below] or [path]
    resolved = [path.resolve() for path in found]
    if twice := [path for path in found if resolved.count(path.resolve()) > 1]:
        raise UserError(f"{twice[0]} is given twice")
    return found


def load_run(folder: Path) -> tuple[Experiment, list[Task], dict[str, Any]]:
    """A run's experiment, tasks and `plan.json`.

    Raises:
        UserError: the folder is not a run.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist")
    if not (folder / EXPERIMENT).is_file() or not (folder / PLAN).is_file():
        raise UserError(f"{folder} is not a run folder: it has no {EXPERIMENT} and {PLAN}")
    experiment = load_experiment(folder / EXPERIMENT)
    experiment.folder = str(folder)  # a run may have been moved
    tasks = [Task.load(folder / "tasks" / f"{task.name}.json") for task in experiment.tasks]
    return experiment, tasks, read_json(folder / PLAN)


def delete_run(folder: Path) -> None:
    """Delete a run for `--overwrite`; what is not a run is never deleted.

    Raises:
        UserError: the folder holds something else than a run.
    """
    if not folder.exists():
        return
    check_no_other_folder(folder)
    for entry in folder.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the lock goes with the process, however it ends.

    Raises:
        UserError: another process trains in it, or the file system cannot lock.
    """
    in_use = f"{folder} is in use: another process is training this run"
    with files.locked(folder / ".lock", lambda: in_use, f"the run folder {folder}"):
        yield


def in_use(folder: Path) -> bool:
    """Whether a process of this machine (or of a shared file system that locks) trains in the folder."""
    try:
        with (folder / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _may_change(key: str, experiment: Experiment) -> bool:
    if key == "train.max_duration":
        scheduler = experiment.train.scheduler
        return scheduler.name in _UNENDING or scheduler.t_max is not None
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


def _flat(experiment: Experiment) -> dict[str, str]:
    """Dotted keys to values, entries of lists by their number."""
    out: dict[str, str] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict | list | tuple) and value:
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{prefix}.{name}" if prefix else str(name))
        else:
            out[prefix] = json.dumps(value, default=str)

    walk(asdict(experiment), "")
    return out
