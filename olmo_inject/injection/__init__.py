"""When and where a task is injected: frequencies, schedules, places in a row, and the plan.

`schedules` decides how many instances a step gets, `plan` which rows get which instance, `placement` where in the row,
and `layout` lays out the tokens. `overflow` checks that no step gets more instances than rows.
"""

from olmo_inject.injection.frequency import Frequency
from olmo_inject.injection.placement import Placement
from olmo_inject.injection.plan import Injections, Plan, PlannedTask
from olmo_inject.injection.schedules import (
    Bernoulli,
    Burst,
    ExactWindow,
    Listed,
    Phases,
    Scattered,
    Schedule,
    Uniform,
    is_exact,
    windowed,
)
from olmo_inject.injection.sightings import sightings

__all__ = [
    "Bernoulli",
    "Burst",
    "ExactWindow",
    "Frequency",
    "Injections",
    "Listed",
    "Phases",
    "Placement",
    "Plan",
    "PlannedTask",
    "Scattered",
    "Schedule",
    "Uniform",
    "is_exact",
    "sightings",
    "windowed",
]
