"""The manifest of a named corpus: the size of each shard, which decides the training order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from olmo_inject.corpus.cache import cache_folder
from olmo_inject.corpus.catalog import NamedCorpus
from olmo_inject.corpus.shards import fingerprint
from olmo_inject.corpus.sources import Source
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_fields, write_json

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The sizes of a corpus's shards, with what they belong to.

    Attributes:
        name: of the corpus.
        root: where the sizes come from.
        listing: SHA-256 of the shards' names.
        dtype: of a token id.
        sequence_length: tokens; `sequences` and `fingerprint` are for this length.
        sequences: number in the whole corpus.
        fingerprint: equal to `TokenShards.fingerprint`.
        sizes: bytes of each shard, in order.
    """

    name: str
    root: str
    listing: str
    dtype: str
    sequence_length: int
    sequences: int
    fingerprint: str
    sizes: list[int]


def default_path(corpus: NamedCorpus) -> Path:
    """The default file of a corpus's manifest. Corpora with the same name and different shards have different files."""
    return cache_folder() / "manifests" / f"{corpus.name}-{corpus.listing[:8]}.json"


def make_manifest(corpus: NamedCorpus, source: Source, advance: Callable[[], None] = lambda: None) -> Manifest:
    """Ask a source for the size of every shard.

    Args:
        corpus: whose shards to ask for.
        source: of the shards.
        advance: called after each distinct shard.

    Raises:
        UserError: a shard is missing, empty, or no whole number of ids.
    """
    entry = corpus.entry
    itemsize = np.dtype(entry.dtype).itemsize
    by_name = source.sizes(list(corpus.shards), advance)
    for name, size in by_name.items():
        if size == 0 or size % itemsize:
            raise UserError(f"{source.where(name)} has {size} bytes, not a positive multiple of {itemsize}")
    sizes = [by_name[name] for name in corpus.shards]
    return Manifest(
        name=corpus.name,
        root=source.root,
        listing=corpus.listing,
        dtype=entry.dtype,
        sequence_length=entry.sequence_length,
        sequences=sum(size // (itemsize * entry.sequence_length) for size in sizes),
        fingerprint=fingerprint(corpus.shards, sizes, entry.dtype, entry.sequence_length),
        sizes=sizes,
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, whole or not at all."""
    write_json(path, {"format": FORMAT} | asdict(manifest))


def read_manifest(path: Path, corpus: NamedCorpus) -> Manifest:
    """Read a manifest and check that it belongs to this corpus.

    Raises:
        UserError: no manifest, a damaged one, or one of other shards.
    """
    fields = read_fields(path, FORMAT, "manifests")
    try:
        manifest = Manifest(**fields)
        if (manifest.listing, manifest.dtype) != (corpus.listing, corpus.entry.dtype):
            raise UserError(f"{path} is the manifest of {manifest.name} with other shards than {corpus.name} has now")
        of_sizes = fingerprint(corpus.shards, manifest.sizes, manifest.dtype, manifest.sequence_length)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a manifest: {error}") from None
    if of_sizes != manifest.fingerprint:
        raise UserError(f"{path} is damaged: its fingerprint is not that of its sizes; make it again")
    return manifest
