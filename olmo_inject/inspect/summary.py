"""Summarize a plan over a run: totals, frequencies, gaps and shares."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from olmo_inject.config import Described, InjectionConfig
from olmo_inject.data import TaskPlan
from olmo_inject.entry_names import entry_name
from olmo_inject.injection.frequency import Frequency
from olmo_inject.injection.plan import PlannedTask
from olmo_inject.injection.schedules import Listed, Phases, is_exact

GAP_STEPS = 20_000  # steps over which gaps are measured, or two periods of an exact schedule, as far as
MOST_GAP_STEPS = 2**22  # these


def plan_summary(experiment: Described, planned: TaskPlan, first_step: int = 0) -> dict[str, Any]:
    """The summary of a plan as plain values, for `plan.json` and `olmo-inject plan`.

    Args:
        experiment: the experiment.
        planned: its plan.
        first_step: where the run begins; not 0 if it branches off another, whose steps do not count.
    """
    tasks: dict[str, dict[str, Any]] = {}
    spliced, sizes = 0.0, set()
    for config, entry in zip(experiment.injections, planned.plan.entries, strict=True):
        described = _of_task(experiment, config, entry, first_step)
        lengths = entry.task.instances.lengths[entry.ids] + entry.placement.beside
        spliced += described["instances"] * float(lengths.mean())
        sizes |= {int(lengths.min()), int(lengths.max())}
        tasks[entry_name(entry.task.name, tasks)] = described
    tokens = (experiment.steps - first_step) * experiment.batch_size * experiment.sequence_length
    return {
        "steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "sequence_length": experiment.sequence_length,
        "plan_seed": experiment.plan_seed,
        "tokens": tokens,
        "injected_share_of_tokens": spliced / (tokens or 1),
        "tokens_of_an_instance": " to ".join(map(str, sorted({min(sizes), max(sizes)}))) if sizes else "",
        "injections": tasks,
    }


def _of_task(experiment: Described, config: InjectionConfig, entry: PlannedTask, first_step: int) -> dict[str, Any]:
    schedule, window, rate = entry.schedule, experiment.window(config), entry.schedule.rate
    within = range(max(window.start, first_step), window.stop)
    if is_exact(schedule):
        count = schedule.before(experiment.steps) - schedule.before(first_step)
        if isinstance(schedule, Listed | Phases):  # their rate is the run's mean, here of its own steps
            rate = Fraction(count, experiment.steps - first_step or 1)
        total: float = count
        two_periods = MOST_GAP_STEPS if schedule.period is None else 2 * schedule.period
        n = min(len(within), max(GAP_STEPS, min(two_periods, MOST_GAP_STEPS)))
        counts = schedule.counts(within.start, np.arange(n))
    else:
        total = float(rate * len(within))
        counts = np.array([schedule.count(step) for step in within[:GAP_STEPS]])
    frequency = Frequency(rate, experiment.batch_size, experiment.sequence_length)
    injected = np.flatnonzero(counts)
    gaps = np.diff(injected)
    n_train = len(entry.ids)
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
        "test_instances": len(entry.in_groups(entry.task.test_ids)),
    }
