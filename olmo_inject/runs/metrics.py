"""`metrics.jsonl`: one measurement per line, cut back to the checkpoint on a resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.utils.files import replacing

EVALUATION = "eval/"  # these belong to the weights before their step; all others belong to the step itself
SPEED = "speed/"  # only these differ between two runs of one experiment

Listener = Callable[[int, Mapping[str, Any]], None]


class JsonLines:
    """A log of JSON objects, one per line. Whole lines are appended, and flushed at checkpoints."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line."""
        self.append_text(json.dumps(record) + "\n")

    def append_text(self, text: str) -> None:
        """Write whole lines."""
        try:
            self._file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def flush(self, *, to_disk: bool = False) -> None:
        """Pass the lines to the system or, with `to_disk`, write them to disk."""
        try:
            self._file.flush()
            if to_disk:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Flush and close.

        Raises:
            UserError: the remaining lines could not be written. The file is closed nevertheless.
        """
        try:
            self._file.close()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error


class Metrics:
    """The log of a run's measurements. It writes on rank 0 and does nothing on other ranks."""

    def __init__(self, path: Path | None) -> None:
        self._log = None if path is None else JsonLines(path)
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Also call `listener(step, values)` on rank 0 for every step."""
        self._listeners.append(listener)

    def log(self, step: int, values: Mapping[str, float | int], count: int | Mapping[str, int] | None = None) -> None:
        """Record values of a step.

        Args:
            step: a plan step.
            values: numbers by name.
            count: number of observations behind each value, one number for all or one by name; None if not meaningful.
        """
        if self._log is None:
            return
        for name, value in values.items():
            record: dict[str, Any] = {"step": step, "name": name}
            # JSON has no NaN or infinity.
            record["value"] = value if math.isfinite(value) else None
            if count is not None:
                record["count"] = count if isinstance(count, int) else count[name]
            self._log.append(record)
        for listener in self._listeners:
            listener(step, values)

    def flush(self, *, to_disk: bool = False) -> None:
        """Flush as `JsonLines.flush` does. A checkpoint is written only after its lines are on disk."""
        if self._log is not None:
            self._log.flush(to_disk=to_disk)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()


def cut_back(path: Path, keep: Callable[[str], bool]) -> None:
    """Drop the lines of a log for which `keep` is false, and a truncated last line. The file may be missing.

    Raises:
        UserError: `keep` cannot read a line; the file is not changed.
    """
    if not path.exists():
        return
    with (
        replacing(path) as temporary,
        path.open(encoding="utf-8") as old,
        temporary.open("w", encoding="utf-8") as new,
    ):
        for number, line in enumerate(old, 1):
            try:
                if line.endswith("\n") and keep(line):
                    new.write(line)
            except (ValueError, KeyError) as error:
                raise UserError(f"{path}: line {number} is damaged: {error}") from None


def belongs_before(step: int) -> Callable[[str], bool]:
    """A predicate for lines that were logged before checkpoint `step{step}` was written."""

    def keep(line: str) -> bool:
        record = json.loads(line)
        return record["step"] < step or (record["step"] == step and record.get("name", "").startswith(EVALUATION))

    return keep
