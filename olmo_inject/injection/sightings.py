"""How often a plan injects each instance of a task."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from olmo_inject.injection.plan import Plan


def sightings(plan: Plan, task: str, steps: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """How often each instance of a task is injected before step `steps`, and the last step that does; -1 for never.

    Args:
        plan: the run's plan.
        task: name of the task; both arrays are empty if the plan does not inject it.
        steps: number of steps to count.
    """
    number = next((n for n, each in enumerate(plan.tasks) if each.name == task), -1)
    n = len(plan.tasks[number].instances) if number >= 0 else 0
    seen, last = np.zeros(n, np.int64), np.full(n, -1)
    for step in range(steps if n else 0):
        injections = plan.at(step)
        mine = injections.instance[(injections.task == number) & (injections.piece == 0)]
        np.add.at(seen, mine, 1)
        last[mine] = step
    return seen, last
