"""Read the files of texts, facts and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from olmo_inject.errors import UserError
from olmo_inject.utils.paths import configs_folder, expanded


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
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not `splitlines`: a text may hold U+2028
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    in_json = path.suffix == ".jsonl"
    if not in_json and numbered and all(_is_object(line) for _, line in numbered):
        raise UserError(f"{where}: {path}: every line is a JSON object: a file of JSON lines is named .jsonl")
    for number, line in numbered:
        place = f"{where}: {path}, line {number}"
        yield place, _object_of(line, place) if in_json else {"text": line}


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _object_of(line: str, place: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(record := dict(pairs)) < len(pairs):
            raise UserError(f"{place}: a key stands twice")
        return record

    try:
        record = json.loads(line, object_pairs_hook=once)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()  # a tokenizer takes no half of a surrogate pair
    except json.JSONDecodeError as error:
        raise UserError(f"{place}, column {error.colno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # halves of surrogate pairs, huge numbers, deep nesting
        raise UserError(f"{place}: cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: must be an object with keys")
    return record


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value of a line is text that holds more than spaces."""
    return isinstance(value, str) and bool(value.strip())


def text_of(record: Mapping[str, Any], name: str, place: str) -> str:
    """The text under a key.

    Args:
        record: a line of the file.
        name: the key.
        place: file and line, for messages.

    Raises:
        UserError: the text is missing or empty, or the value is not text.
    """
    if name not in record:
        raise UserError(f"{place}: there is no {name}; its keys are {', '.join(record) or 'none'}")
    value = record[name]
    if not is_text(value):
        raise UserError(f"{place}: {name} must be text, got {value!r}")
    return value


def labels_of(with_places: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> tuple[str, ...]:
    """The records' values of `id` or `group`.

    Args:
        with_places: records and their places.
        name: the key.

    Raises:
        UserError: some records have one and others none, or two have the same `id`.
    """
    if all(record.get(name) is None for _, record in with_places):
        return ()
    values: dict[str, None] = {}
    labels = []
    for place, record in with_places:
        if (value := record.get(name)) is None:
            raise UserError(f"{place}: there is no {name}; give one to every line, or to none")
        if name == "id" and str(value) in values:
            raise UserError(f"{place}: the id {str(value)!r} is that of an earlier line")
        values[str(value)] = None
        labels.append(str(value))
    return tuple(labels)
