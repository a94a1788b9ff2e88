"""The file that an option such as `--out` or `--parquet` names: it is checked before the work that fills it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from olmo_inject.errors import UserError
from olmo_inject.utils.files import reading
from olmo_inject.utils.owned_folder import check_writable


@dataclass(frozen=True)
class FileKind:
    """A kind of file that a command writes.

    Attributes:
        name: in words, such as `a Parquet file`.
        beginning: bytes with which every file of this kind begins.
    """

    name: str
    beginning: bytes


PARQUET = FileKind("a Parquet file", b"PAR1")
SCAN = FileKind("the report of a scan", b'{\n  "corpus": ')
MANIFEST = FileKind("a manifest", b'{\n  "format": ')
PAGE = FileKind(
    "a report",
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
    b'content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n<title>',
)
PICTURES = {
    "png": FileKind("a PNG", b"\x89PNG\r\n"),
    "svg": FileKind("an SVG", b"<?xml"),
    "pdf": FileKind("a PDF", b"%PDF-"),
}


def check_output(path: Path, kind: FileKind, option: str) -> None:
    """Check that an option's file can be written. It replaces only a file of the same kind, or an empty one.

    Args:
        path: the file.
        kind: what will be written.
        option: that names the file, for messages.

    Raises:
        UserError: it cannot be written, or another file is there.
    """
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder; give the file to write")
    if path.exists():
        found = b""
        if path.is_file():  # and no device
            with reading(path), path.open("rb") as file:
                found = file.read(len(kind.beginning))
        if not path.is_file() or found not in (b"", kind.beginning):
            raise UserError(f"{option}: {path} is not overwritten: it is not {kind.name}; give another file")
    check_writable(path.parent)
