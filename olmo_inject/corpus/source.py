"""From a configuration's `corpus` to shards and their order: named, in a folder, staged, or one's own."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field, replace
from pathlib import Path

from olmo_inject.config import CorpusConfig, find_config
from olmo_inject.corpus.catalog import NamedCorpus, read_catalog
from olmo_inject.corpus.folder import read_corpus_folder
from olmo_inject.corpus.manifest import Manifest, default_path, read_manifest
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import is_remote, open_source
from olmo_inject.corpus.staged import STAGE, StagedShards, StageOrder, StageRecord, read_stage
from olmo_inject.errors import UserError
from olmo_inject.paths import expanded
from olmo_inject.vocabulary import Vocabulary


@dataclass(frozen=True)
class CorpusSource:
    """Where tokens come from, with all that a folder or the catalog said filled in.

    Attributes:
        paths: the shards as local files, in order; empty where they are remote or staged.
        dtype: of a token id.
        vocabulary: of the ids.
        named: the catalog's corpus, if it is one.
        root: of a named corpus.
        manifest: of a named corpus, where there is one; a remote corpus always has it.
        stage: the staged corpus, if it is one.
        sums: SHA-256 of each shard, where a folder records them.
        sequences: how many of the first ones are trained on; None: all.
    """

    paths: list[Path]
    dtype: str
    vocabulary: Vocabulary
    named: NamedCorpus | None = field(default=None, repr=False)
    root: str | None = None
    manifest: Manifest | None = field(default=None, repr=False)
    stage: StageRecord | None = field(default=None, repr=False)
    sums: list[str] | None = field(default=None, repr=False)
    sequences: int | None = None

    def open_shards(self, sequence_length: int) -> TokenShards:
        """The tokens as sequences.

        Raises:
            UserError: shards that cannot be read, have changed, or were staged at another length.
        """
        if self.stage is not None:
            return StagedShards(self.stage, sequence_length, self.vocabulary.size)
        if self.paths:
            if self.root is not None:
                open_source(self.root)  # a root that is not there is said before a shard of it
            sizes = None if self.manifest is None else self.manifest.sizes
            return TokenShards(self.paths, sequence_length, self.dtype, self.vocabulary.size, sizes, self.sums)
        assert self.named is not None
        assert self.root is not None
        assert self.manifest is not None
        source = open_source(self.root)
        names, sizes = self.named.shards, self.manifest.sizes
        return RemoteShards(source, names, sizes, sequence_length, self.dtype, self.vocabulary.size)

    def open_order(self, shards: TokenShards, batch_size: int, seed: int, folder: Path | None = None) -> Order:
        """The order of training; `folder` as `Order`'s.

        Raises:
            UserError: as `Order`; a stage of another batch size or seed; more sequences asked for than there are.
        """
        if self.stage is not None:
            if self.sequences is not None:
                raise UserError("corpus.sequences: not of a staged corpus, whose order is fixed")
            return StageOrder(self.stage, batch_size, seed)
        n = len(shards) if self.sequences is None else self.sequences
        if n > len(shards):
            raise UserError(f"corpus.sequences: {n:,} are more than the {len(shards):,} of the corpus")
        return Order(n, batch_size, seed, folder)


def read_source(corpus: CorpusConfig) -> CorpusSource:
    """What a configuration's `corpus` names, without opening a shard.

    Raises:
        UserError: nothing of the kind is there, or it contradicts what the configuration says of it.
    """
    return replace(_source_of(corpus), sequences=corpus.sequences)


def _source_of(corpus: CorpusConfig) -> CorpusSource:
    if corpus.name is not None:
        return _named(corpus, corpus.name)
    if corpus.folder is not None:
        return _folder(corpus, Path(corpus.folder))
    paths = [Path(match) for pattern in corpus.paths for match in _expand(pattern)]
    if corpus.tokenizer is not None:
        vocabulary = Vocabulary.load(
            corpus.tokenizer, eos_id=corpus.eos_token_id, pad_id=corpus.pad_token_id, size=corpus.vocab_size
        )
    elif None in (corpus.vocab_size, corpus.eos_token_id, corpus.pad_token_id):
        raise UserError("corpus: without a tokenizer, give vocab_size, eos_token_id and pad_token_id")
    else:
        assert corpus.vocab_size is not None
        assert corpus.eos_token_id is not None
        assert corpus.pad_token_id is not None
        vocabulary = Vocabulary.without_tokenizer(corpus.vocab_size, corpus.eos_token_id, corpus.pad_token_id)
    return CorpusSource(paths, corpus.dtype, vocabulary)


def named_corpus(name: str, root: str | None = None) -> tuple[NamedCorpus, str]:
    """A corpus of the catalog and its root.

    Raises:
        UserError: no such corpus, or nothing says where its shards are.
    """
    named = read_catalog(find_config(name, "corpora"))
    root = root or (named.entry.root and expanded(named.entry.root, f"{name}: root"))
    if root is None:
        raise UserError(f"corpus.root: {named.name} needs one: a folder, http(s)://... or s3://... with its shards")
    return named, root


def _named(corpus: CorpusConfig, name: str) -> CorpusSource:
    named, root = named_corpus(name, corpus.root)
    entry = named.entry
    _refuse_contradictions(corpus, f"{name}'s file", entry.eos_token_id, entry.pad_token_id)
    vocabulary = Vocabulary.load(entry.tokenizer, eos_id=entry.eos_token_id, pad_id=entry.pad_token_id)
    path = Path(corpus.manifest) if corpus.manifest else default_path(named)
    remote = is_remote(root)
    if remote and not path.is_file():
        raise UserError(f"{path}: no manifest of {name}; `olmo-inject corpus manifest {name} --root {root}` makes it")
    manifest = read_manifest(path, named) if corpus.manifest or path.is_file() else None
    paths = [] if remote else [Path(root) / shard for shard in named.shards]
    return CorpusSource(paths, entry.dtype, vocabulary, named, root, manifest)


def _folder(corpus: CorpusConfig, path: Path) -> CorpusSource:
    if (path / STAGE).is_file():
        stage = read_stage(path)
        _refuse_contradictions(corpus, str(path), stage.eos_token_id, stage.pad_token_id)
        return CorpusSource([], stage.dtype, stage.load_vocabulary(), stage=stage)
    folder = read_corpus_folder(path)
    _refuse_contradictions(corpus, str(path), folder.eos_token_id, folder.pad_token_id)
    paths, sums = [shard.path for shard in folder.shards], [shard.sha256 for shard in folder.shards]
    return CorpusSource(paths, folder.dtype, folder.load_vocabulary(), sums=sums)


def _expand(pattern: str) -> list[str]:
    if not glob.has_magic(pattern) or Path(pattern).exists():  # a name may hold brackets
        return [pattern]
    matches = sorted(glob.glob(pattern))
    if not matches:
        raise UserError(f"corpus.paths: nothing matches {pattern}")
    return matches


def _refuse_contradictions(corpus: CorpusConfig, what: str, eos_id: int | None, pad_id: int | None) -> None:
    for name, given, recorded in (
        ("eos_token_id", corpus.eos_token_id, eos_id),
        ("pad_token_id", corpus.pad_token_id, pad_id),
    ):
        if given is not None and recorded is not None and given != recorded:
            raise UserError(f"corpus.{name}: {given}, but {what} was written with {recorded}")
