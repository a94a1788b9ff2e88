"""What is injected: tasks, their kinds, and the registry of kinds.

`task` builds a task's instances and its train and test half. `comparison` and `modular_addition` are the study's kinds;
`texts`, `facts`, `benchmark`, `canary` and `copies` take other material. `halves` chooses which held-out pairs are
evaluated.
"""

from olmo_inject.tasks import (  # registers the built-in kinds
    benchmark,
    canary,
    comparison,
    copies,
    facts,
    modular_addition,
    texts,
)
from olmo_inject.tasks.material import Material, Probe, TaskInputs
from olmo_inject.tasks.ragged import Ragged
from olmo_inject.tasks.registry import TaskKind, all_pairs, register
from olmo_inject.tasks.task import (
    INSTANCE_TOKENS,
    LABEL_POSITION,
    SPLICED_TOKENS,
    Task,
    TaskConfig,
    build_tasks,
    check_name,
)

__all__ = [
    "INSTANCE_TOKENS",
    "LABEL_POSITION",
    "SPLICED_TOKENS",
    "Material",
    "Probe",
    "Ragged",
    "Task",
    "TaskConfig",
    "TaskInputs",
    "TaskKind",
    "all_pairs",
    "benchmark",
    "build_tasks",
    "canary",
    "check_name",
    "comparison",
    "copies",
    "facts",
    "modular_addition",
    "register",
    "texts",
]
