"""Expand `~` and `$NAME` in paths as a shell does, wherever the user gives a path; and tell paths apart in tables."""

from __future__ import annotations

import functools
import os
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from olmo_inject.errors import UserError

PATH = "a path, or a name"  # annotates text parameters of commands that may hold a path
LONGEST_NAME = 255  # bytes, on every file system of Linux and macOS
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_ADDRESS = re.compile(r"(https?|s3|gs|file):/")  # Path turns two slashes into one
F = TypeVar("F", bound=Callable[..., Any])


def expanded(path: str, where: str) -> str:
    """Replace `~` at the start of `path`, and `$NAME` or `${NAME}` in it. Addresses are not changed.

    Args:
        path: a local path, a name, or an address such as s3://bucket/prefix.
        where: the key or option that holds it, for messages.

    Raises:
        UserError: a variable is not set, or no file can have such a name.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise UserError(f"{where}: {path}: the environment variable {name} is not set")
        return os.environ[name]

    whole = path if "://" in path else _VARIABLE.sub(value, os.path.expanduser(path))  # noqa: PTH111
    if "\0" in whole or any(len(os.fsencode(part)) > LONGEST_NAME for part in whole.split("/")):
        raise UserError(
            f"{where}: {path[:40]!r}... is not a path: a name has at most {LONGEST_NAME} bytes and no zero byte"
        )
    return whole


def with_expanded_paths(command: F) -> F:
    """Wrap a command so that its paths are expanded: parameters of type Path, and those annotated with `PATH`."""
    hints = typing.get_type_hints(command, include_extras=True)
    command.__annotations__ = hints  # typer would evaluate their texts four times, a quarter of the time of --help
    texts = {name for name, hint in hints.items() if PATH in getattr(hint, "__metadata__", ())}

    def expand(value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [expand(entry, name) for entry in value]
        if isinstance(value, Path):
            if _ADDRESS.match(str(value)):
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option}: {value} is an address; it must be a path of this machine")
            return Path(expanded(str(value), name))
        return expanded(value, name) if isinstance(value, str) and name in texts else value

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **{name: expand(value, name) for name, value in kwargs.items()})

    return typing.cast("F", called)


def configs_folder() -> Path:
    """The folder of the shipped configurations: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def distinct_ends(paths: Iterable[str], least: int = 1) -> dict[str, str]:
    """The shortest end of each path that no other one has; the whole path if it is the end of another one.

    Args:
        paths: of files or folders.
        least: number of names in the shortest ends.
    """
    parts = {path: Path(path).resolve().parts for path in paths}
    counts = Counter(names[-length:] for names in parts.values() for length in range(least, len(names) + 1))
    ends = {}
    for path, names in parts.items():
        lengths = (length for length in range(least, len(names)) if counts[names[-length:]] == 1)
        ends[path] = str(Path(*names[-next(lengths, len(names)) :]))
    return ends
