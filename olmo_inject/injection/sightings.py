"""How often a plan injects each instance of a task."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from olmo_inject.injection.plan import Plan
from olmo_inject.tasks import Task


def sightings(plan: Plan, task: Task, steps: range) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """How often each instance of a task is injected in some steps, and the last of them that does; -1 for none.

    Args:
        plan: the run's plan.
        task: a task, which the plan may not inject at all.
        steps: which to count, ascending.
    """
    number = next((n for n, each in enumerate(plan.tasks) if each.name == task.name), -1)
    seen, last = np.zeros(len(task.instances), np.int64), np.full(len(task.instances), -1)
    for step in steps if number >= 0 else ():
        injections = plan.at(step)
        mine = injections.instance[(injections.task == number) & (injections.piece == 0)]
        np.add.at(seen, mine, 1)
        last[mine] = step
    return seen, last
