"""Labels of runs in figures and text: the run's name, with a part of its path if several runs share the name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath


def labels(runs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A unique label for each folder, in the given order.

    A name that only one folder has is its label. Otherwise the label is the shortest end of the path that is unique:
    `a/run` and `b/run`, or `demo (first)` and `demo (second)` if folders are not named like the run.

    Args:
        runs: (name, folder) pairs; repetitions are allowed.
    """
    names = {folder: name for name, folder in runs}
    parts = {folder: Path(folder).resolve().parts for folder in names}
    return {
        folder: _label(name, parts[folder], [parts[other] for other in names if names[other] == name])
        for folder, name in names.items()
    }


def file_part(label: str) -> str:
    """A label as a part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "-", label).strip("-")


def _label(name: str, parts: tuple[str, ...], same: list[tuple[str, ...]]) -> str:
    """The label of the folder with these path `parts`, among the folders `same` that share its name."""
    if len(same) == 1:
        return name
    lengths = (n for n in range(1, len(parts)) if sum(other[-n:] == parts[-n:] for other in same) == 1)
    end = parts[-next(lengths, len(parts)) :]  # the whole path if it is the end of another one
    place = str(PurePath(*end))
    return place if end[-1] == name else f"{name} ({place})"
