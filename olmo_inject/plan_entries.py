"""Turn the entries of an experiment's `injections` into the entries of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.config import Described, InjectionConfig
from olmo_inject.errors import UserError, in_one_line
from olmo_inject.injection import (
    Bernoulli,
    Burst,
    ExactWindow,
    Listed,
    Phases,
    Placement,
    PlannedTask,
    Scattered,
    Schedule,
    Uniform,
    windowed,
)
from olmo_inject.randomness import key
from olmo_inject.tasks import Task
from olmo_inject.tasks.records import read_records
from olmo_inject.utils.files import replacing
from olmo_inject.utils.fraction_text import parse_fraction


def planned_tasks(experiment: Described, tasks: Sequence[Task]) -> list[PlannedTask]:
    """The plan's entries, in the order of `injections`.

    Raises:
        UserError: a group that a task does not have; a list of injections that cannot be read.
    """
    by_name = {task.name: task for task in tasks}
    entries: list[PlannedTask] = []
    for config in experiment.injections:
        before = sum(entry.task.name == config.task for entry in entries)
        entries.append(_planned(experiment, config, by_name[config.task], before))
    return entries


def _planned(experiment: Described, config: InjectionConfig, task: Task, number: int) -> PlannedTask:
    """The plan's entry for `config`, which is the task's entry number `number`, counted from 0."""
    where = f"injections: {config.task}"
    if unknown := [group for group in config.groups if group not in task.groups]:
        known = ", ".join(dict.fromkeys(task.groups))
        mistake = (
            f"is not one of the task's groups: {known}" if known else "is no group: the task's instances have none"
        )
        raise UserError(f"{where}: groups: {unknown[0]!r} {mistake}")
    draw: Any = config.draw
    if config.schedule == "repetitions":
        draw = "epochs" if config.spread == "even" else "shuffled"
    placement = Placement(config.place, config.offset, config.eos, config.per_row, config.longer == "split")
    entry = PlannedTask(task, NEVER, draw, placement, frozenset(config.groups), config.times or 1)
    if not len(entry.ids):
        raise UserError(
            f"{where}: groups: {', '.join(config.groups)} have no instance in the train half (see train_fraction)"
        )
    return replace(entry, schedule=_schedule(experiment, config, entry, number))


NEVER = Uniform(Fraction(0))


def _schedule(experiment: Described, config: InjectionConfig, entry: PlannedTask, number: int) -> Schedule:
    again = (number,) if number else ()
    if config.schedule == "phases":
        return Phases(tuple(_phases(experiment, config)), experiment.steps)
    if config.schedule == "at":
        return _listed(experiment, config, entry)
    if config.schedule == "repetitions":
        assert config.times is not None
        window, total = experiment.window(config), len(entry.ids) * config.times
        if config.spread == "random":
            words = key("scattered", experiment.plan_seed, config.task, *again)
            return Scattered(total, window.start, window.stop, words)
        # The rate times the window is a whole number, so the window holds exactly that many instances.
        return windowed(Uniform(Fraction(total, len(window))), window.start, window.stop)
    if config.schedule == "burst":
        assert config.instances is not None
        assert config.every is not None
        schedule: Schedule = Burst(config.instances, config.every, config.phase)
    else:
        rate = experiment.frequency(config).per_batch
        if config.schedule == "uniform":
            schedule = Uniform(rate)
        else:
            words = key("bernoulli", experiment.plan_seed, config.task, *again)
            schedule = Bernoulli(rate, experiment.batch_size, words)
    return windowed(schedule, config.start, config.stop)


def _phases(experiment: Described, config: InjectionConfig) -> list[ExactWindow]:
    where = f"injections: {config.task}: phases"
    return [
        ExactWindow(
            Uniform(parse_fraction(phase.instances_per_batch, f"{where}: instances_per_batch")),
            phase.start,
            experiment.window(phase).stop,
        )
        for phase in config.phases
    ]


def _listed(experiment: Described, config: InjectionConfig, entry: PlannedTask) -> Listed:
    """The injections that a file lists.

    Raises:
        UserError: the file, its line, and what is wrong with it.
    """
    assert config.file is not None
    where = f"injections: {config.task}: {config.file}"
    numbers = {entry.task.instance_id(i): i for i in range(len(entry.task.instances))}
    allowed = set(entry.ids.tolist())
    listed = []
    for place, record in _read_list(config.file, f"injections: {config.task}"):
        if unknown := record.keys() - {"step", "row", "instance"}:
            raise UserError(f"{place}: {min(unknown)!r} is not one of step, row, instance")
        step, row, name = (_without_point(record.get(column)) for column in ("step", "row", "instance"))
        _check_number(step, experiment.steps, f"{place}: step")
        if row is not None:
            _check_number(row, experiment.batch_size, f"{place}: row")
        instance = -1 if name is None else numbers.get(str(name), -2)
        if instance != -1 and instance not in allowed:
            raise UserError(f"{place}: instance {name!r} is not one of those that may be injected")
        listed.append((step, -1 if row is None else row, instance))
    if not listed:
        raise UserError(f"{where} lists nothing")
    steps, rows, instances = (np.array(column, np.int64) for column in zip(*listed, strict=True))
    order = np.argsort(steps, kind="stable")
    return Listed(steps[order], rows[order], instances[order], experiment.steps)


def write_list(listed: Listed, task: Task, path: Path) -> None:
    """Write a list to a Parquet file that `schedule: at` reads as the same list.

    Args:
        listed: steps, rows (negative: any row) and instances (negative: any instance).
        task: whose instances they are.
        path: the file, which is replaced.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [None if number < 0 else task.instance_id(number) for number in listed.instances.tolist()]
    columns = {
        "step": listed.steps,
        "row": pa.array(listed.rows, mask=listed.rows < 0),
        "instance": pa.array(names, pa.string()),
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _read_list(file: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The entries of a list with their places for messages, from Parquet or JSON lines."""
    if not file.endswith(".parquet"):
        yield from read_records(file, where)
        return
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {file}: cannot be read: {in_one_line(error)}") from None
    for number, record in enumerate(records, 1):
        yield f"{where}: {file}, row {number}", record


def _without_point(value: Any) -> Any:
    """The value; a whole number for 3.0, as which pandas writes numbers in a column where some are missing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_number(value: object, beyond: int, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < beyond:
        raise UserError(f"{where}: {value!r} is not in 0..{beyond - 1}")
