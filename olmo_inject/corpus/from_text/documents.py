"""Read documents from JSON lines, Parquet, plain text and Hugging Face datasets."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from olmo_inject.corpus.from_text.inputs import COMPRESSIONS, Input, TextOptions, open_dataset
from olmo_inject.errors import UserError, in_one_line

LONGEST_LINE = 2**30  # bytes; a longer line is a file of another format
ROWS = 512  # rows of a table that are in memory at once
_READ_BYTES = 2**20


class Document(NamedTuple):
    """One document and its place.

    Attributes:
        text: valid, so it can be encoded as UTF-8.
        id: as the source gives it, or empty.
        source: the file, or the dataset and its split.
        line: of the file, or row of the table, from 1.
    """

    text: str
    id: str
    source: str
    line: int


class Reading:
    """Progress of reading one input, and its damaged lines.

    Args:
        skip_damaged: count damaged lines and continue; otherwise the first one raises a `UserError`.
    """

    def __init__(self, skip_damaged: bool = False) -> None:
        self.skip_damaged = skip_damaged
        self.damaged = 0
        self.broken_off = 0  # number of files whose rest cannot be read
        self.position = 0  # progress within the input's `size`

    def damage(self, path: str, line: int, reason: Exception | str) -> None:
        """Count a damaged line.

        Args:
            path: of the file.
            line: of the file, or row of the table.
            reason: what is wrong with it.

        Raises:
            UserError: damaged lines are not skipped.
        """
        if not self.skip_damaged:
            why = f"{path}: line {line} is damaged: {in_one_line(reason)}"
            raise UserError(f"{why} (--skip-damaged counts such lines and continues)")
        self.damaged += 1


def read_documents(source: Input, options: TextOptions, reading: Reading) -> Iterator[Document]:
    """The documents of one input in order, including those without text.

    Args:
        source: to read.
        options: how documents are found in it.
        reading: counts progress and damaged lines.

    Raises:
        UserError: a damaged line or row (unless `reading` skips them), a missing column, an unreadable file.
    """
    readers: dict[str, Callable[[Input, TextOptions, Reading], Iterator[Document]]] = {
        "json": _json_documents,
        "text": _text_documents,
        "parquet": _parquet_documents,
        "saved": _dataset_documents,
        "dataset": _dataset_documents,
    }
    try:
        yield from readers[source.kind](source, options, reading)
    except OSError as error:
        raise UserError(f"{source.path}: cannot be read: {in_one_line(error)}") from None


def _lines(source: Input, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """Line numbers and decompressed lines; a file that breaks off has a damaged last line."""
    with pa.OSFile(source.path) as raw:
        compression = COMPRESSIONS.get(Path(source.path).suffix)
        stream = raw if compression is None else pa.CompressedInputStream(raw, compression)
        buffer = io.BufferedReader(stream, _READ_BYTES)
        number = 0
        while True:
            number += 1
            try:
                line = buffer.readline(LONGEST_LINE)
            except OSError as error:
                reading.damage(source.path, number, error)
                reading.broken_off += 1
                return
            if not line:
                return
            if len(line) == LONGEST_LINE:
                raise UserError(f"{source.path}: line {number} is longer than {LONGEST_LINE:,} bytes")
            reading.position = raw.tell()
            yield number, line


def _json_documents(source: Input, options: TextOptions, reading: Reading) -> Iterator[Document]:
    for number, line in _lines(source, reading):
        if line.isspace():
            continue
        try:
            fields = json.loads(line.decode())
            text = _text(fields, options)
            if b"\\u" in line:
                text.encode()  # a lone surrogate is valid JSON but not valid text
        except json.JSONDecodeError as error:
            reading.damage(source.path, number, f"{error.msg} at character {error.pos + 1}")
            continue
        except (ValueError, RecursionError) as error:
            reading.damage(source.path, number, error)
            continue
        yield Document(text, _id(fields, options), source.path, number)


def _text_documents(source: Input, options: TextOptions, reading: Reading) -> Iterator[Document]:
    if options.text_unit == "line":
        for number, line in _lines(source, reading):
            try:
                yield Document(line.decode().rstrip("\r\n"), "", source.path, number)
            except UnicodeDecodeError as error:
                reading.damage(source.path, number, error)
        return
    damaged = reading.damaged
    content = b"".join(line for _, line in _lines(source, reading))
    if reading.damaged > damaged:
        return
    try:
        yield Document(content.decode(), "", source.path, 1)
    except UnicodeDecodeError as error:
        reading.damage(source.path, content.count(b"\n", 0, error.start) + 1, error)


def _parquet_documents(source: Input, options: TextOptions, reading: Reading) -> Iterator[Document]:
    try:
        with pq.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            _require_column(source.path, options.text_field, names)
            columns = [name for name in (options.text_field, options.id_field) if name in names]
            rows, number = max(1, file.metadata.num_rows), 0
            for batch in file.iter_batches(ROWS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield from _row(fields, source.path, number, options, reading)
                reading.position = source.size * number // rows
    except pa.ArrowInvalid as error:
        raise UserError(f"{source.path}: is not a Parquet file: {in_one_line(error)}") from None


def _dataset_documents(source: Input, options: TextOptions, reading: Reading) -> Iterator[Document]:
    dataset = open_dataset(source.source, options)
    number, name = 0, f"{source.path}/{options.dataset_split}"
    if source.kind == "saved":
        # Contiguous parts, so that row numbers are the dataset's own.
        per, more = divmod(len(dataset), source.of)
        number = source.shard * per + min(source.shard, more)
        part = dataset.shard(source.of, source.shard, contiguous=True)
    else:
        part = dataset.shard(source.of, source.shard) if source.of > 1 else dataset
        name += f"#{source.shard}"
    if part.column_names is not None:
        _require_column(name, options.text_field, part.column_names)
        part = part.select_columns([c for c in (options.text_field, options.id_field) if c in part.column_names])
    rows = iter(part)
    while True:
        try:
            fields = next(rows)
        except StopIteration:
            break
        except Exception as error:  # as in `open_dataset`
            raise UserError(f"{name}: cannot be read beyond row {number}: {in_one_line(error)}") from None
        number += 1
        yield from _row(fields, name, number, options, reading)
    reading.position = source.size


def _row(fields: Any, name: str, number: int, options: TextOptions, reading: Reading) -> Iterator[Document]:
    try:
        text = _text(fields, options)
    except ValueError as error:
        reading.damage(name, number, error)
        return
    yield Document(text, _id(fields, options), name, number)


def _require_column(where: str, field: str, names: Sequence[str]) -> None:
    if field not in names:
        raise UserError(f"{where}: no column {field}; there are {', '.join(names)}")


def _text(fields: Any, options: TextOptions) -> str:
    if not isinstance(fields, dict):
        raise ValueError("not an object with keys")
    text = fields.get(options.text_field)
    if not isinstance(text, str):
        raise ValueError(f"{options.text_field} is {'missing' if text is None else type(text).__name__}, not text")
    return text


def _id(fields: dict[str, Any], options: TextOptions) -> str:
    value = fields.get(options.id_field)
    return "" if value is None else str(value)
