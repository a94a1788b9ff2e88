"""The manifest of a named corpus: how large each shard is, which decides the order of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from olmo_inject.corpus.catalog import NamedCorpus
from olmo_inject.corpus.shards import fingerprint
from olmo_inject.corpus.sources import Source
from olmo_inject.corpus.sources.cache import cache_folder
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What is known of a corpus without reading it.

    Attributes:
        name: of the corpus.
        root: where its shards were asked for.
        listing: SHA-256 of the shards' names.
        dtype: of a token id.
        sequence_length: tokens, for `sequences` and `fingerprint`.
        sequences: in the whole corpus.
        fingerprint: as `TokenShards.fingerprint`.
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
    """Where a corpus's manifest is kept unless the user says otherwise: two of one name have a file each."""
    return cache_folder() / "manifests" / f"{corpus.name}-{corpus.listing[:8]}.json"


def make_manifest(corpus: NamedCorpus, source: Source, advance: Callable[[], None] = lambda: None) -> Manifest:
    """Ask the source for every shard's size; `advance` is called after each distinct shard.

    Raises:
        UserError: a shard that is not there or holds no whole number of ids.
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
    """Write a manifest whole or not at all."""
    write_json(path, {"format": FORMAT} | asdict(manifest))


def read_manifest(path: Path, corpus: NamedCorpus) -> Manifest:
    """Read a manifest and check that it is one of this corpus.

    Raises:
        UserError: no manifest, a damaged one, or one of other shards.
    """
    fields = read_json(path)
    found_format = fields.pop("format", None) if isinstance(fields, dict) else None
    if found_format != FORMAT:
        raise UserError(f"{path} has format {found_format}; this version reads manifests of format {FORMAT}")
    try:
        manifest = Manifest(**fields)
        if (manifest.listing, manifest.dtype) != (corpus.listing, corpus.entry.dtype):
            raise UserError(f"{path} is the manifest of {manifest.name} with other shards than {corpus.name} has now")
        same = fingerprint(corpus.shards, manifest.sizes, manifest.dtype, manifest.sequence_length)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a manifest: {error}") from None
    if same != manifest.fingerprint:
        raise UserError(f"{path} is damaged: its sizes do not give its fingerprint; make it anew")
    return manifest
