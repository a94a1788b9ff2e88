"""The rates at which an experiment injects its tasks, from its plan's JSON or, if possible, from its YAML."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from olmo_inject.entry_names import task_of_entry
from olmo_inject.errors import UserError
from olmo_inject.theory.mixtures.frequencies import parse_rate
from olmo_inject.utils.yaml_text import typed

SCHEDULES = ("uniform", "burst", "bernoulli")
PLAN_SAYS = "use the JSON of `olmo-inject plan EXPERIMENT --json`, which says every rate"


def is_injected(document: dict[str, Any]) -> bool:
    """Whether a file is an experiment or a plan, rather than a configuration of a prediction."""
    return "injections" in document or "extends" in document


def injected_rates(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Read every task's `instances_per_batch` from a plan or an experiment, and `batch` from a plan.

    A task that is injected in a part of the run counts with its rate there.

    Args:
        path: of the file, for messages.
        document: a plan, whose `injections` are by task; or an experiment, whose `injections` are a list.

    Raises:
        UserError: there is no rate to be read for a task.
    """
    if "extends" in document:
        raise UserError(f"{path}: an experiment that extends another is not read here; {PLAN_SAYS}")
    if isinstance(document["injections"], dict):
        return _of_plan(path, document)
    return {"tasks": _of_experiment(path, document["injections"])}


def _of_plan(path: Path, plan: dict[Any, Any]) -> dict[str, Any]:
    if not plan["injections"]:
        raise UserError(f"{path}: the plan injects no task")
    batch_size = typed(plan.get("batch_size"), Any)
    if not isinstance(batch_size, int):
        raise UserError(f"{path} must give batch_size, as every plan does")
    rates: dict[str, Fraction] = {}
    for name, task in plan["injections"].items():
        where = f"{path}: injections.{name}"
        if not isinstance(task, dict) or "instances_per_batch" not in task:
            raise UserError(f"{where} must give instances_per_batch, as every plan does")
        rate = parse_rate(task["instances_per_batch"], f"{where}.instances_per_batch")
        rates[task_of_entry(name)] = rates.get(task_of_entry(name), Fraction(0)) + rate
    return {"tasks": _as_tasks(rates), "batch": batch_size}


def _of_experiment(path: Path, entries: object) -> dict[str, Any]:
    """Instances per batch of every injected task, summed over its entries."""
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: injections must be a list of one or more entries")
    rates: dict[str, Fraction] = {}
    for i, entry in enumerate(entries):
        where = f"{path}: injections[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("task"), str):
            raise UserError(f"{where} must name its task")
        rates[entry["task"]] = rates.get(entry["task"], Fraction(0)) + _entry_rate(where, entry)
    return _as_tasks(rates)


def _as_tasks(rates: dict[str, Fraction]) -> dict[str, Any]:
    return {task: {"instances_per_batch": str(rate)} for task, rate in rates.items()}


def _entry_rate(where: str, entry: dict[Any, Any]) -> Fraction:
    schedule = entry.get("schedule", "uniform")
    if schedule not in SCHEDULES:
        raise UserError(
            f"{where}: schedule {schedule!r} is not {', '.join(SCHEDULES)}, whose rate is known; {PLAN_SAYS}"
        )
    if schedule == "burst":
        for key in ("instances", "every"):
            if key not in entry:
                raise UserError(f"{where}: a burst must give instances and every")
        size, every = (parse_rate(entry[key], f"{where}.{key}") for key in ("instances", "every"))
        return size / every
    if "instances_per_batch" not in entry:
        raise UserError(f"{where} does not give instances_per_batch; {PLAN_SAYS}")
    return parse_rate(entry["instances_per_batch"], f"{where}.instances_per_batch")
