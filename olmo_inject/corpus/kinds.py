"""The kinds of corpus behind one interface: shards at paths, a folder, a named corpus (local or remote), a stage."""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from olmo_inject.config import CorpusConfig
from olmo_inject.corpus.cache import cache_folder
from olmo_inject.corpus.catalog import NamedCorpus, find_named
from olmo_inject.corpus.folder import CorpusDescription, read_corpus_folder
from olmo_inject.corpus.manifest import Manifest, default_path, read_manifest
from olmo_inject.corpus.order import SHARED_FROM, Order
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import is_remote, open_source
from olmo_inject.corpus.staged import STAGE, StagedShards, StageOrder, StageRecord, read_stage
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary


@dataclass(frozen=True)
class Shape:
    """What decides, beside the corpus, which sequences a step holds. None means not known."""

    batch_size: int | None = None
    sequence_length: int | None = None
    seed: int | None = None

    def filled(self, other: Shape) -> Shape:
        """This shape, with its unknowns taken from `other`."""
        ours, theirs = vars(self), vars(other)
        return Shape(**{name: theirs[name] if ours[name] is None else ours[name] for name in ours})


@dataclass(frozen=True)
class Corpus(ABC):
    """A corpus whose description was read and whose shards are not open yet.

    Attributes:
        vocabulary: of the token ids.
        sequences: number of its first sequences to train on; None: all.
    """

    vocabulary: Vocabulary
    sequences: int | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> Shape:
        """Batch size, sequence length and seed, as far as the corpus itself decides them."""
        return Shape()

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is, for messages."""

    @property
    def paths(self) -> Sequence[Path]:
        """The shards as local files in order; empty if they are remote or staged."""
        return ()

    @abstractmethod
    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """Open the shards as sequences of `sequence_length` tokens.

        Args:
            sequence_length: tokens.
            checked_sizes: bytes of each shard, if another process has checked all files; then none is checked here.

        Raises:
            UserError: a shard is missing, unreadable or changed; a stage was made for another sequence length.
        """

    def open_order(self, shards: TokenShards, batch_size: int, seed: int, second: Path | None = None) -> Order:
        """Open the order of training. The shuffles of a long one are stored in the cache, for every run and command.

        Args:
            shards: from `open_shards`.
            batch_size: sequences of a step.
            seed: of the shuffle.
            second: as in `Order`.

        Raises:
            UserError: as in `Order`; a stage was made for another batch size or seed; too few sequences.
        """
        n = len(shards) if self.sequences is None else self.sequences
        if n > len(shards):
            raise UserError(f"corpus.sequences: {n:,} are more than the {len(shards):,} of the corpus")
        if n < SHARED_FROM:
            return Order(n, batch_size, seed)
        return Order(n, batch_size, seed, cache_folder() / "order", second)


@dataclass(frozen=True)
class ShardFiles(Corpus):
    """Shards at the paths that an experiment lists."""

    files: list[Path]
    dtype: str

    @property
    def location(self) -> str:
        """The folder of the first shard."""
        return str(self.files[0].parent)

    @property
    def paths(self) -> Sequence[Path]:
        """As `Corpus.paths`."""
        return self.files

    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """As `Corpus.open_shards`."""
        return _open_files(self.files, sequence_length, self.dtype, self.vocabulary, checked_sizes)


@dataclass(frozen=True)
class FolderCorpus(Corpus):
    """A folder with a `corpus.json`."""

    description: CorpusDescription

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.description.folder)

    @property
    def paths(self) -> Sequence[Path]:
        """As `Corpus.paths`."""
        return [shard.path for shard in self.description.shards]

    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """As `Corpus.open_shards`."""
        sums = [shard.sha256 for shard in self.description.shards]
        return _open_files(
            self.paths, sequence_length, self.description.dtype, self.vocabulary, checked_sizes, sums=sums
        )


@dataclass(frozen=True)
class CatalogCorpus(Corpus):
    """A corpus of the catalog in a folder of this machine; shards are compared with its manifest if there is one."""

    named: NamedCorpus
    root: str
    manifest: Manifest | None

    @property
    def shape(self) -> Shape:
        """The shape that the corpus was published with."""
        entry = self.named.entry
        return Shape(entry.batch_size, entry.sequence_length, entry.seed)

    @property
    def location(self) -> str:
        """Its name and root."""
        return f"{self.named.name} at {self.root}"

    @property
    def paths(self) -> Sequence[Path]:
        """As `Corpus.paths`."""
        return [Path(self.root) / shard for shard in self.named.shards]

    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """As `Corpus.open_shards`."""
        open_source(self.root)  # reports a missing root before a missing shard
        sizes = None if self.manifest is None else self.manifest.sizes
        dtype = self.named.entry.dtype
        return _open_files(self.paths, sequence_length, dtype, self.vocabulary, checked_sizes, sizes=sizes)


@dataclass(frozen=True)
class RemoteCorpus(CatalogCorpus):
    """A corpus of the catalog on a web server or in S3, with its manifest."""

    manifest: Manifest

    @property
    def paths(self) -> Sequence[Path]:
        """Empty, since no shard is a local file."""
        return ()

    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """As `Corpus.open_shards`."""
        source, named = open_source(self.root), self.named
        dtype, size = named.entry.dtype, self.vocabulary.size
        return RemoteShards(source, named.shards, self.manifest.sizes, sequence_length, dtype, size)


@dataclass(frozen=True)
class StagedCorpus(Corpus):
    """The sequences of some steps, in training order, that `corpus stage` copied out of a corpus."""

    record: StageRecord

    @property
    def shape(self) -> Shape:
        """The shape that it was staged for."""
        return Shape(self.record.batch_size, self.record.sequence_length, self.record.seed)

    @property
    def location(self) -> str:
        """Its folder."""
        return str(self.record.folder)

    def open_shards(self, sequence_length: int, checked_sizes: Sequence[int] | None = None) -> TokenShards:
        """As `Corpus.open_shards`."""
        # Another node's stage may hold other rows, so its sizes are not this one's.
        return StagedShards(self.record, sequence_length, self.vocabulary.size, sizes_checked=checked_sizes is not None)

    def open_order(self, shards: TokenShards, batch_size: int, seed: int, second: Path | None = None) -> Order:
        """The order of the stage, which is already on disk.

        Args:
            shards: from `open_shards`.
            batch_size: must be that of the stage.
            seed: must be that of the stage.
            second: not used.

        Raises:
            UserError: the stage was made for another batch size, seed or `corpus.sequences`.
        """
        staged = self.record.corpus_sequences
        if self.sequences not in (None, staged):
            raise UserError(
                f"corpus.sequences: {self.sequences:,}, but {self.record.folder} is a staged corpus, whose order is "
                f"fixed: of {staged:,} sequences"
            )
        return StageOrder(self.record, batch_size, seed)


def _open_files(
    paths: Sequence[Path],
    sequence_length: int,
    dtype: str,
    vocabulary: Vocabulary,
    checked_sizes: Sequence[int] | None,
    *,
    sizes: Sequence[int] | None = None,
    sums: Sequence[str] | None = None,
) -> TokenShards:
    known = sizes if checked_sizes is None else checked_sizes
    sizes_checked = checked_sizes is not None
    return TokenShards(paths, sequence_length, dtype, vocabulary.size, known, sums, sizes_checked=sizes_checked)


def find_corpus(config: CorpusConfig, *, sizes_checked: bool = False) -> Corpus:
    """The corpus that a configuration names; no shard is opened.

    Args:
        config: names it.
        sizes_checked: as in `read_corpus_folder`.

    Raises:
        UserError: it does not exist, or contradicts what the configuration says of it.
    """
    return replace(_find(config, sizes_checked), sequences=config.sequences)


def _find(config: CorpusConfig, sizes_checked: bool) -> Corpus:
    if config.name is not None:
        return _from_catalog(config, config.name)
    if config.folder is not None:
        return _from_folder(config, Path(config.folder), sizes_checked)
    files = [Path(match) for pattern in config.paths for match in _expand(pattern)]
    return ShardFiles(_vocabulary_of(config), files, config.dtype)


def _from_catalog(config: CorpusConfig, name: str) -> CatalogCorpus:
    named, root = find_named(name, config.root)
    eos_id, pad_id, tokenizer = named.entry.eos_token_id, named.entry.pad_token_id, named.entry.tokenizer
    vocabulary = Vocabulary.load(tokenizer, eos_id=eos_id, pad_id=pad_id)
    _check_agrees(config, name, vocabulary.eos_id, vocabulary.pad_id)
    path = Path(config.manifest) if config.manifest else default_path(named)
    if not is_remote(root):
        manifest = read_manifest(path, named) if config.manifest or path.is_file() else None
        return CatalogCorpus(vocabulary, named, root, manifest)
    if not path.is_file():
        raise UserError(f"{path}: no manifest of {name}; `olmo-inject corpus manifest {name} --root {root}` makes it")
    return RemoteCorpus(vocabulary, named, root, read_manifest(path, named))


def _from_folder(config: CorpusConfig, folder: Path, sizes_checked: bool) -> Corpus:
    if (folder / STAGE).is_file():
        record = read_stage(folder)
        _check_agrees(config, str(folder), record.eos_token_id, record.pad_token_id)
        return StagedCorpus(record.load_vocabulary(), record)
    description = read_corpus_folder(folder, sizes_checked=sizes_checked)
    _check_agrees(config, str(folder), description.eos_token_id, description.pad_token_id)
    return FolderCorpus(description.load_vocabulary(), description)


def _vocabulary_of(config: CorpusConfig) -> Vocabulary:
    size, eos_id, pad_id = config.vocab_size, config.eos_token_id, config.pad_token_id
    if config.tokenizer is not None:
        return Vocabulary.load(config.tokenizer, eos_id=eos_id, pad_id=pad_id, size=size)
    if size is None or eos_id is None or pad_id is None:
        raise UserError("corpus: without a tokenizer, give vocab_size, eos_token_id and pad_token_id")
    return Vocabulary.without_tokenizer(size, eos_id, pad_id)


def _expand(pattern: str) -> list[str]:
    if not glob.has_magic(pattern) or Path(pattern).exists():  # a file's name may contain brackets
        return [pattern]
    matches = sorted(glob.glob(pattern))
    if not matches:
        raise UserError(f"corpus.paths: nothing matches {pattern}")
    return matches


def _check_agrees(config: CorpusConfig, what: str, eos_id: int, pad_id: int) -> None:
    for name, given, recorded in (
        ("eos_token_id", config.eos_token_id, eos_id),
        ("pad_token_id", config.pad_token_id, pad_id),
    ):
        if given is not None and given != recorded:
            raise UserError(f"corpus.{name}: {given}, but {what} was written with {recorded}")
