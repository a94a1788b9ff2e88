"""Names of a plan's entries in `plan.json`: a task's first entry has the task's name, further ones NAME/2, NAME/3."""

from __future__ import annotations

from collections.abc import Iterable


def entry_name(task: str, taken: Iterable[str]) -> str:
    """The name of a task's next entry, after those of other entries."""
    number = 1 + sum(task_of_entry(name) == task for name in taken)
    return task if number == 1 else f"{task}/{number}"


def task_of_entry(name: str) -> str:
    """The task of the entry of this name; a task's name has no slash."""
    return name.partition("/")[0]
