"""What runs are called in figures and sentences: by their name, and where several share it, by their place too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath


def labels(runs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A label for each folder that no other has, in the order given.

    A name that only one folder has is its label. Others get the shortest end of their path that tells them apart:
    `a/run` and `b/run`, or `demo (first)` and `demo (second)` where the folders are not called as the run.

    Args:
        runs: names and folders, the same pair any number of times.
    """
    names = {folder: name for name, folder in runs}
    parts = {folder: Path(folder).resolve().parts for folder in names}
    return {
        folder: _label(name, parts[folder], [parts[other] for other in names if names[other] == name])
        for folder, name in names.items()
    }


def file_part(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.,=+-]+", "-", label).strip("-")


def _label(name: str, parts: tuple[str, ...], same: list[tuple[str, ...]]) -> str:
    """Of the folder with `parts`, where the folders in `same`, itself among them, have one name."""
    if len(same) == 1:
        return name
    lengths = (n for n in range(1, len(parts)) if sum(other[-n:] == parts[-n:] for other in same) == 1)
    end = parts[-next(lengths, len(parts)) :]  # all of it where it is the end of another's
    place = str(PurePath(*end))
    return place if end[-1] == name else f"{name} ({place})"
