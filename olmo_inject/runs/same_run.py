"""What makes a run the same run: the settings that a resume may not change, and fingerprints of its data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from olmo_inject.config import Described, Experiment
from olmo_inject.data import ExperimentData, TaskPlan
from olmo_inject.errors import UserError
from olmo_inject.injection import Listed, Plan
from olmo_inject.runs.read import (
    TASK_FINGERPRINT,
    SavedRun,
    read_experiment,
    read_plan,
)
from olmo_inject.utils.files import sha256_of_json

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


def identity(experiment: Described) -> str:
    """A hash of all that a resume may not change. Experiments with the same identity are the same run."""
    return sha256_of_json(settings(experiment))[:16]


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
