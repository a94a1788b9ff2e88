"""What is injected: tasks, their kinds and the registry of kinds."""

from olmo_inject.tasks import comparison, modular_addition  # registers the built-in kinds
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
    "Task",
    "TaskConfig",
    "TaskKind",
    "all_pairs",
    "build_tasks",
    "check_name",
    "comparison",
    "modular_addition",
    "register",
]
