"""Labels of runs in figures and text: the run's name, with a part of its path if several runs share the name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from olmo_inject.utils.paths import distinct_ends


def labels(runs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A unique label for each folder, in the given order.

    A name that only one folder has is its label. Otherwise the label is the shortest end of the path that is unique:
    `a/run` and `b/run`, or `demo (first)` and `demo (second)` if folders are not named like the run.

    Args:
        runs: (name, folder) pairs; repetitions are allowed.
    """
    names = {folder: name for name, folder in runs}
    of_name: dict[str, list[str]] = {}
    for folder, name in names.items():
        of_name.setdefault(name, []).append(folder)
    ends = {name: distinct_ends(folders) for name, folders in of_name.items() if len(folders) > 1}
    return {folder: _placed(name, ends[name][folder]) if name in ends else name for folder, name in names.items()}


def _placed(name: str, end: str) -> str:
    """The label of one of several folders of a name, from the end of its path."""
    return end if Path(end).name == name else f"{name} ({end})"


def file_part(label: str) -> str:
    """A label as a part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "-", label).strip("-")
