"""Detect files that are not token ids: text, a Git LFS pointer, or a known binary format."""

from __future__ import annotations

import codecs

import numpy as np

from olmo_inject.errors import UserError

LOOKED_AT = 4096  # bytes that are examined, at the start of a shard or of a sequence
_FEWEST = 64  # minimum bytes of a text; fewer may look like text by chance
_DISTINCT = 9  # minimum distinct bytes of a text; one repeated token has two
_LFS = b"version https://git-lfs"
# Magic numbers have four bytes or more here, since two bytes, such as gzip's, are an ordinary token.
_MAGIC = {
    b"\x93NUMPY": "a NumPy file; shards are raw arrays, as np.ndarray.tofile writes",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b\x08\x00": "a gzip file",
    b"\x1f\x8b\x08\x08": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ\x00": "an xz file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x89PNG\r\n": "a PNG picture",
    b"SQLite format": "an SQLite database",
}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\f\r")) + b"\x7f"


def check_tokens(where: str, content: bytes, dtype: np.dtype, *, is_start: bool = True) -> None:
    """Check that bytes can be token ids.

    Args:
        where: the shard, for the message.
        content: bytes at the start of the shard or of a sequence; the first `LOOKED_AT` are examined.
        dtype: of an id; `uint8` is not checked for text, since text is a corpus of bytes.
        is_start: whether the content is the start of the file, where a format has its magic number.

    Raises:
        UserError: it is text, a Git LFS pointer, or a file of a known format.
    """
    kind = _format(content) if is_start else None
    if dtype.itemsize > 1 and kind is None and _is_text(content[:LOOKED_AT]):
        kind = _kind_of_text(content)
    if kind is not None and (dtype.itemsize > 1 or kind.startswith("a NumPy")):
        raise UserError(f"corpus: {where} is not a shard of token ids but {kind}")


def _format(content: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut."""
    if len(content) < _FEWEST:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return len(content.translate(None, _CONTROLS)) == len(content) and len(set(content)) >= _DISTINCT


def _kind_of_text(content: bytes) -> str:
    if content.startswith(_LFS):
        return "a Git LFS pointer; `git lfs pull` fetches the file itself"
    start = content.lstrip()[:15].lower()
    return "a web page" if start.startswith((b"<!doctype html", b"<html")) else "text"
