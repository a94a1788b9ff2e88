"""Corpora known by name: a YAML file that lists the shards in order and describes their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from olmo_inject.config import find_config
from olmo_inject.corpus.shards import DTYPES
from olmo_inject.errors import UserError
from olmo_inject.utils.described_yaml import read_described
from olmo_inject.utils.number_ranges import COUNT, NOT_NEGATIVE
from olmo_inject.utils.paths import expanded


@dataclass
class Folder:
    """One folder of shards in the table of a corpus."""

    path: str = MISSING
    parts: int = MISSING
    digits: int = 5
    """Digits of a part's number, with leading zeros."""
    pieces: dict[int, Any] | None = None
    """Number of files -> the parts that have that many, such as `0-4 6`; other parts have one file."""
    twice: str | None = None
    """Parts whose files each stand twice, one after the other, such as `104` or `0-4 6`."""
    times: int = 1
    """How often the folder's shards are repeated in the order, the whole folder each time."""


@dataclass
class CatalogEntry:
    """A corpus as its YAML file describes it."""

    root: str | None = None
    """Where the shards are: a folder, http(s)://... or s3://...; an experiment's `corpus.root` replaces it."""
    dtype: str = "uint16"
    tokenizer: str = MISSING
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    seed: int = 6198
    sequence_length: int = 4096
    batch_size: int = 1024
    shards: str = MISSING
    """A shard's name under `root`, with {path}, {part} and {piece}."""
    folders: list[Folder] = MISSING


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus of the catalog, with the names of its shards in order.

    Attributes:
        name: of its file, without `.yaml`.
        entry: the content of the file.
        shards: names relative to the root; one may occur more than once.
    """

    name: str
    entry: CatalogEntry
    shards: tuple[str, ...]

    @cached_property
    def listing(self) -> str:
        """SHA-256 of the names in order, one per line."""
        return hashlib.sha256("".join(f"{name}\n" for name in self.shards).encode()).hexdigest()


def find_named(name: str, root: str | None = None) -> tuple[NamedCorpus, str]:
    """A corpus of the catalog and its root.

    Args:
        name: name of a file in configs/corpora, or path of such a file.
        root: where the shards are; by default where the file says.

    Raises:
        UserError: there is no such corpus, or no root is known.
    """
    named = read_catalog(find_config(name, "corpora"))
    root = root or (named.entry.root and expanded(named.entry.root, f"{name}: root"))
    if root is None:
        raise UserError(f"corpus.root: {named.name} needs one: a folder, http(s)://... or s3://... with its shards")
    return named, root


def read_catalog(path: Path) -> NamedCorpus:
    """Read a corpus's YAML file.

    Raises:
        UserError: an unknown key, a value of the wrong type, or a table without shards.
    """
    entry = read_described(path, CatalogEntry)
    try:
        shards = tuple(name for folder in entry.folders for name in _names(entry.shards, folder))
    except KeyError as error:
        raise UserError(f"{path}: shards: {{{error.args[0]}}} is none of {{path}}, {{part}} and {{piece}}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the table of shards: {error}") from None
    if entry.dtype not in DTYPES:
        raise UserError(f"{path}: dtype: {entry.dtype!r} is not one of {', '.join(DTYPES)}")
    for key, allowed in (("sequence_length", COUNT), ("batch_size", COUNT), ("seed", NOT_NEGATIVE)):
        if not allowed.holds(value := getattr(entry, key)):
            raise UserError(f"{path}: {key}: {value} must be {allowed}")
    if not shards:
        raise UserError(f"{path}: the table names no shard")
    return NamedCorpus(path.stem, entry, shards)


def _names(pattern: str, folder: Folder) -> list[str]:
    pieces = dict.fromkeys(range(folder.parts), 1)
    for number, parts in (folder.pieces or {}).items():
        pieces |= dict.fromkeys(_parts(folder, str(parts)), number)
    twice = _parts(folder, folder.twice or "")
    once = [
        pattern.format(path=folder.path, part=f"{part:0{folder.digits}d}", piece=piece)
        for part, number in pieces.items()
        for piece in range(number)
        for _ in range(2 if part in twice else 1)
    ]
    return once * folder.times


def _parts(folder: Folder, spans: str) -> list[int]:
    """The numbers in text such as `0-4 6`."""
    numbers = []
    for span in spans.split():
        first, _, last = span.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if beyond := [number for number in numbers if number >= folder.parts]:
        raise ValueError(f"{folder.path} has no part {beyond[0]} among {folder.parts}")
    return numbers
