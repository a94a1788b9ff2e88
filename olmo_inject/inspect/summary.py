"""What a plan comes to over a run: totals, units, gaps and shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from olmo_inject.config import Described, InjectionConfig
from olmo_inject.data import TaskPlan
from olmo_inject.injection.plan import PlannedTask
from olmo_inject.injection.schedules import is_exact
from olmo_inject.tasks import SPLICED_TOKENS

GAP_STEPS = 20_000  # gaps are measured over at most so many steps; schedules repeat long before


def plan_summary(experiment: Described, what: TaskPlan) -> dict[str, Any]:
    """The plan of a run as plain values, for `plan.json` and `olmo-inject plan`."""
    entries = zip(experiment.injections, what.plan.entries, strict=True)
    tasks = {entry.task.name: _of_task(experiment, config, entry) for config, entry in entries}
    tokens = experiment.steps * experiment.batch_size * experiment.sequence_length
    spliced = sum(task["instances"] for task in tasks.values()) * SPLICED_TOKENS
    return {
        "steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "sequence_length": experiment.sequence_length,
        "plan_seed": experiment.plan_seed,
        "tokens": tokens,
        "injected_share_of_tokens": spliced / tokens,
        "injections": tasks,
    }


def _of_task(experiment: Described, config: InjectionConfig, entry: PlannedTask) -> dict[str, Any]:
    schedule, steps = entry.schedule, experiment.steps
    frequency = experiment.frequency(config)
    first = min(config.start, steps)
    beyond = min(config.stop or steps, steps)
    if is_exact(schedule):
        total: float = schedule.before(steps)
    else:
        total = float(frequency.per_batch * (beyond - first))
    counts = np.array([schedule.count(step) for step in range(first, min(beyond, first + GAP_STEPS))])
    injected = np.flatnonzero(counts)
    gaps = np.diff(injected)
    n_train = len(entry.task.train_ids)
    return {
        "schedule": config.schedule,
        "draw": entry.draw,
        "start": config.start,
        "stop": config.stop,
        "instances": total,
        "instances_are": "exact" if is_exact(schedule) else "expected",
        "instances_per_batch": str(frequency.per_batch),
        "per_sequence": float(frequency.per_sequence),
        "per_token": float(frequency.per_token),
        "most_in_a_batch": schedule.max_count,
        "steps_between_observations": None
        if not len(gaps)
        else {"least": int(gaps.min()), "mean": float(gaps.mean()), "most": int(gaps.max())},
        "mean_steps_between_sightings_of_one_instance": None
        if not frequency.per_batch
        else float(n_train / frequency.per_batch),
        "train_instances": n_train,
        "test_instances": len(entry.task.test_ids),
    }
