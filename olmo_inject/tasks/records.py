"""Read the files of texts, facts and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.paths import configs_folder, expanded


def read_records(file: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The records of a file, each with its place for messages: JSON objects, one per line, or lines of text.

    Args:
        file: a path, or that of a shipped file inside configs. JSON lines if it ends in `.jsonl`; else each line is a
            record `{"text": LINE}`. Blank lines are skipped.
        where: the task.

    Raises:
        UserError: no such file; a line that is no JSON object.
    """
    if not file:
        raise UserError(f"{where}: option file is missing")
    path = Path(expanded(file, f"{where}: file"))
    if not path.exists() and (shipped := configs_folder() / path).is_file():
        path = shipped
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{where}: {path}, line {number}"
        if path.suffix != ".jsonl":
            yield place, {"text": line}
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{place}: must be an object with keys")
        yield place, record


def text_of(record: Mapping[str, Any], name: str, place: str) -> str:
    """The text under a key.

    Args:
        record: a line of the file.
        name: the key.
        place: file and line, for messages.

    Raises:
        UserError: the text is missing or empty, or the value is not text.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {name} must be text, got {value!r}")
    return value


def labels_of(records: list[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    """The records' values of `id` or `group`; all records must have one, or none of them."""
    values = [record.get(name) for record in records]
    return () if all(value is None for value in values) else tuple("" if v is None else str(v) for v in values)
