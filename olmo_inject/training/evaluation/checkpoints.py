"""Evaluate checkpoints on the tasks of their run or on other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from olmo.model import OLMo
from rich.box import SIMPLE
from rich.table import Table
from torch import nn

from olmo_inject.config import load_experiment
from olmo_inject.data import build_plan
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import ALL, checkpoint_labels, find_checkpoints, run_and_step
from olmo_inject.runs.read import PLAN, load_run, load_tasks, run_of
from olmo_inject.tasks import Task
from olmo_inject.tasks.halves import UNMIRRORED, chosen_ids
from olmo_inject.training.checkpoints import record
from olmo_inject.training.checkpoints.convert import read_model
from olmo_inject.training.checkpoints.on_disk import step_of
from olmo_inject.training.evaluation.probes import ProbeResult, ask_task
from olmo_inject.training.evaluation.suites import SuiteResult
from olmo_inject.training.evaluation.tasks import evaluate_model, half_means
from olmo_inject.utils.files import replacing, sha256_of

VERSION = 3  # increased when scores change, so that kept results of jobs are not mistaken for new ones


@dataclass(frozen=True)
class Result:
    """The scores of one checkpoint on one half of one task.

    Attributes:
        checkpoint: folder of the checkpoint.
        step: completed steps; None if the checkpoint does not say.
        task: name of the task.
        half: `train` or `test`.
        count: number of scored instances.
        loss: mean cross-entropy of LABEL, in nats.
        accuracy: share of instances whose LABEL is the most likely of all tokens.
        accuracy_among_labels: share of instances whose LABEL is the most likely of the task's labels.
        label_mass: mean probability of all the task's labels together.
        loss_among_labels: mean cross-entropy of LABEL if only the task's labels are possible, in nats.
        trained: whether the checkpoint's run was given this very task.
        count_unmirrored: number of test pairs without a mirror in the train half.
        auc: how often a pair with the second label has a larger difference of logits than one with the first; None
            unless the task has two labels.
        auc_unmirrored: `auc` over unmirrored pairs; None if there are none, as in the next three.
        accuracy_unmirrored: `accuracy` over unmirrored pairs.
        accuracy_among_labels_unmirrored: `accuracy_among_labels` over unmirrored pairs.
        loss_among_labels_unmirrored: `loss_among_labels` over unmirrored pairs.
    """

    checkpoint: str
    step: int | None
    task: str
    half: str
    count: int
    loss: float
    accuracy: float
    accuracy_among_labels: float
    label_mass: float
    loss_among_labels: float
    trained: bool
    count_unmirrored: int
    auc: float | None = None
    auc_unmirrored: float | None = None
    accuracy_unmirrored: float | None = None
    accuracy_among_labels_unmirrored: float | None = None
    loss_among_labels_unmirrored: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def find_checkpoint_paths(paths: Sequence[Path], steps: str = ALL) -> list[Path]:
    """The checkpoints at `paths`, by step within a run.

    Args:
        paths: checkpoints, run folders or folders of runs.
        steps: which checkpoints of a run, as in `olmo_inject.runs.checkpoints.select_steps`.

    Raises:
        UserError: a path is neither, or a step does not exist.
    """
    selection = find_checkpoints(paths, steps)
    if selection.missing:
        raise UserError(selection.missing[0])
    return [checkpoint.path for checkpoint in selection.checkpoints]


def find_tasks(chosen: Sequence[str], checkpoint: Path) -> list[Task]:
    """The tasks that a checkpoint is to be evaluated on.

    Args:
        chosen: names of its run's tasks, files of saved tasks (`tasks/NAME.json` of any run), or experiments (YAML),
            whose tasks are built. Empty: all tasks of its run.
        checkpoint: names are looked up in its run folder.

    Raises:
        UserError: there is no such task or file.
    """
    own = own_tasks(checkpoint)
    if not chosen:
        if not own:
            raise UserError(f"{checkpoint} does not lie in a run with tasks: name tasks or files with --tasks")
        return own
    tasks: list[Task] = []
    for name in chosen:
        if named := [task for task in own if task.name == name]:
            tasks += named
        elif name.endswith(".json"):
            tasks.append(Task.load(Path(name)))
        elif Path(name).is_file():
            run = run_of(name)
            tasks += build_plan(load_experiment(name)).tasks if run is None else run.tasks
        else:
            known = ", ".join(task.name for task in own) or "none"
            raise UserError(
                f"--tasks: {name!r} is neither a task of {checkpoint.parent} ({known}) nor a file: "
                "a run's tasks/NAME.json, or an experiment's YAML"
            )
    return tasks


def own_tasks(checkpoint: Path) -> list[Task]:
    """The tasks of the run that a checkpoint belongs to; empty if it belongs to none."""
    place = run_and_step(checkpoint)
    return load_tasks(place[0]) if place is not None else []


def evaluate_checkpoint(
    checkpoint: Path, tasks: Sequence[Task], device: torch.device, batch_size: int = 512, most: int | None = None
) -> Iterator[Result | ProbeResult]:
    """Evaluate both halves of each task; for a task with probes, each probe.

    Args:
        checkpoint: a checkpoint of any kind, or a transformers folder.
        tasks: what to evaluate it on.
        device: where to compute, in float32.
        batch_size: instances per forward pass.
        most: maximum instances of each half; None: all.

    Raises:
        UserError: as in `read_model`, or the model lacks a task's tokens.
    """
    model = _load(checkpoint, device)
    trained = {task.fingerprint for task in own_tasks(checkpoint)}
    step = step_of(checkpoint)
    vocabulary = model.config.vocab_size
    for task in tasks:
        if (largest := int(task.instances.values.max())) >= vocabulary:
            raise UserError(f"{checkpoint}: its vocabulary of {vocabulary} lacks token {largest} of task {task.name}")
        if not task.is_triples:
            yield from _ask(model, checkpoint, step, task, batch_size, most, task.fingerprint in trained)
            continue
        for half in ("train", "test"):
            ids = chosen_ids(task, half, most)
            means = half_means(task, half, ids, evaluate_model(model, task, ids, batch_size))
            unmirrored = means.get(UNMIRRORED)
            yield Result(
                checkpoint=str(checkpoint),
                step=step,
                task=task.name,
                half=half,
                count=len(ids),
                count_unmirrored=0 if unmirrored is None else unmirrored.count,
                trained=task.fingerprint in trained,
                **{name: mean.value for name, mean in means.items()},
            )


def what_is_evaluated(
    checkpoint: Path, tasks: Sequence[Task], rows_per_pass: int, max_instances: int | None
) -> dict[str, Any]:
    """What decides the results of `evaluate_checkpoint`, in JSON types.

    Args:
        checkpoint: as in `evaluate_checkpoint`.
        tasks: as in `evaluate_checkpoint`.
        rows_per_pass: its `batch_size`.
        max_instances: its `most`.
    """
    place = run_and_step(checkpoint)
    return {
        "evaluation": VERSION,
        "checkpoint": str(checkpoint),
        "weights": {path.name: sha256_of(path) for path in record.identifying_files(checkpoint)},
        "plan": None if place is None else sha256_of(place[0] / PLAN),
        "tasks": [[task.name, task.fingerprint] for task in tasks],
        "own_tasks": [task.fingerprint for task in own_tasks(checkpoint)],
        "rows_per_pass": rows_per_pass,
        "max_instances": max_instances,
    }


def result_of(record: dict[str, Any]) -> Result | ProbeResult | SuiteResult:
    """The result that `record()` gave."""
    if "suite" in record:
        return SuiteResult(**record)
    return ProbeResult(**record) if "instance" in record else Result(**record)


def _ask(
    model: nn.Module, checkpoint: Path, step: int | None, task: Task, batch_size: int, most: int | None, trained: bool
) -> Iterator[ProbeResult]:
    """The answers to a task's probes, with how often its run had injected each instance before."""
    seen_before = None
    if trained and step is not None and (place := run_and_step(checkpoint)) is not None:
        run = load_run(place[0])
        seen_before = run.build_plan().plan, range(run.own_steps.start, step)
    for answer in ask_task(model, task, batch_size, most, seen_before):
        yield ProbeResult(checkpoint=str(checkpoint), step=step, task=task.name, trained=trained, **answer)


def results_table(results: Sequence[Result]) -> Table:
    """A table of results. Tasks that the checkpoint's run was not trained on have a star."""
    table = Table(box=SIMPLE, padding=0, show_edge=False)
    columns = ("loss", "accuracy", "of labels", "unmirrored", "label mass", "loss in labels", "AUC")
    for name in ("checkpoint", "task", "half", *columns):
        left = name in ("checkpoint", "task", "half")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "checkpoint", overflow="fold")
    labels = checkpoint_labels(result.checkpoint for result in results)
    for result in results:
        rest, auc = result.accuracy_unmirrored, result.auc
        table.add_row(
            labels[result.checkpoint],
            result.task if result.trained else f"{result.task}*",
            result.half,
            f"{result.loss:.4f}",
            f"{result.accuracy:.4f}",
            f"{result.accuracy_among_labels:.4f}",
            "" if rest is None else f"{rest:.4f}",
            f"{result.label_mass:.4f}",
            f"{result.loss_among_labels:.4f}",
            "" if auc is None else f"{auc:.4f}",
        )
    if not all(result.trained for result in results):
        table.caption = "* not trained with"
    return table


def write_results(results: Sequence[Result | ProbeResult | SuiteResult], path: Path) -> None:
    """Write results to a Parquet file, one per row. Fields that a kind of result does not have are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        records = [result.record() for result in results]
        names = dict.fromkeys(name for record in records for name in record)
        columns = {name: [record.get(name) for record in records] for name in names}
        pq.write_table(pa.table(columns), temporary)


def _load(checkpoint: Path, device: torch.device) -> Any:
    """A model of ai2-olmo or transformers, in float32 and evaluation mode."""
    if (checkpoint / "config.json").is_file():
        from olmo_inject.training.checkpoints.load import load_transformers  # imports transformers: seconds

        return load_transformers(checkpoint).to(device)  # pyright: ignore[reportArgumentType]
    weights, config = read_model(checkpoint)
    # Flash attention does not support float32.
    model = OLMo(config.update_with(init_device="cpu", flash_attention=False), init_params=False)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.to(device)
