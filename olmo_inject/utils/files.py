"""Read and write files. A file is written under a temporary name and renamed, so a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olmo_inject.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

READ_BYTES = 4 << 20  # bytes per read


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end flush it to disk and rename it to `path`.

    After an error the temporary file is removed and `path` is as before.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def json_text(value: Any) -> str:
    """`value` as indented JSON, with null for numbers that are not finite, for which JSON has no form."""
    return json.dumps(_finite(value), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        UserError: the file is missing, cannot be read, or is not UTF-8.
    """
    with reading(path):
        return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: as in `read_text`, or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file: {error}") from None


def read_fields(path: Path, number: int, what: str) -> dict[str, Any]:
    """Read a JSON file of keys and values, without the key `format`.

    Args:
        path: the file.
        number: the format that this version reads.
        what: the files of this format, for messages, such as `manifests`.

    Raises:
        UserError: as in `read_json`, or it has another format.
    """
    fields = read_json(path)
    found = fields.pop("format", None) if isinstance(fields, dict) else None
    if found != number:
        raise UserError(f"{path} has format {found}; this version reads {what} of format {number}")
    return fields


def read_lines(path: Path) -> Iterator[Any]:
    """The records of a JSON-lines file, without a last line that a kill cut off.

    Raises:
        UserError: as in `read_text`, or a line before the last is damaged.
    """
    number = 0
    with reading(path), path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            number += 1
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is damaged: {getattr(error, 'msg', error)}") from None
            yield record


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors in reading a text file into a `UserError`.

    Raises:
        UserError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:  # such as a folder in its place, a loop of links, or no permission
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: {error}") from None


def mapped(path: Path, dtype: DTypeLike) -> np.ndarray:
    """A file's content as an array, which is read when it is used.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty, or holds no whole number of values.
    """
    import numpy as np  # most commands that read files need none

    # Of a Path, numpy resolves every folder above it: ten calls instead of one. A plain view, since slicing an
    # np.memmap costs microseconds for its subclass.
    return np.memmap(str(path), dtype, mode="r").view(np.ndarray)


def sha256_of_json(value: Any) -> str:
    """SHA-256 of `value` as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path, advance: Callable[[int], None] = lambda n: None, *, past_cache: bool = False) -> str:
    """SHA-256 of a file, at about one GB per second.

    Args:
        path: of the file.
        advance: called with the number of bytes just read.
        past_cache: read from the disk and not from the page cache, if the system allows that.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if past_cache and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
