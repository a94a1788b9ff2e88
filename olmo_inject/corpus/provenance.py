"""The document of each token of a shard: Dolma's `.csv.gz` beside the shard.

One row per document, without a header: start, end (in tokens, end exclusive, EOS included), id, source, line.
"""

from __future__ import annotations

import csv
import gzip
import io
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from olmo_inject.errors import UserError

SUFFIX = ".csv.gz"


class Origin(NamedTuple):
    """One row: tokens `start` to `end` (exclusive) of the shard are document `id` at `line` of `source`."""

    start: int
    end: int
    id: str
    source: str
    line: int


def provenance_path(shard: Path) -> Path:
    """The provenance file beside `shard`, with the name that Dolma's tools give it."""
    return shard.with_suffix(SUFFIX)


class ProvenanceWriter:
    """Writes rows to `path`. The same rows give the same bytes: the file holds no time and no name."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)
        self._text = io.TextIOWrapper(self._gzip, encoding="utf-8", newline="")
        self._rows = csv.writer(self._text, lineterminator="\n")

    def __enter__(self) -> ProvenanceWriter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._text.close()
        self._file.close()

    def add(self, origin: Origin) -> None:
        """Write one row. Rows are written one at a time, so their grouping cannot change the compressed bytes."""
        self._rows.writerow(origin)


def read_origins(path: Path) -> Iterator[Origin]:
    """The rows of a provenance file.

    Raises:
        UserError: it is missing or not a provenance file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            for start, end, name, source, line in csv.reader(text):
                yield Origin(int(start), int(end), name, source, int(line))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a provenance file: {error}") from None


def origins_at(shard: Path, offsets: list[int]) -> list[Origin | None]:
    """The document at each of `offsets` (tokens) of `shard`; None if it is not known."""
    path = provenance_path(shard)
    if not offsets or not path.is_file():
        return [None] * len(offsets)
    rows = list(read_origins(path))
    starts = [row.start for row in rows]
    nearest = [rows[at - 1] if (at := bisect_right(starts, offset)) else None for offset in offsets]
    return [row if row and offset < row.end else None for row, offset in zip(nearest, offsets, strict=True)]
