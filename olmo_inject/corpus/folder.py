"""A corpus folder: raw token shards, and `corpus.json`, which describes them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_fields, write_json
from olmo_inject.utils.owned_folder import FolderKind
from olmo_inject.utils.words import counted
from olmo_inject.vocabulary import Vocabulary

FORMAT = 1
DESCRIPTION = "corpus.json"
TOKENIZER = "tokenizer.json"
PLAN = "build.json"  # sources and options of `corpus build`
BUILDING, STAGING = ".build", ".staging"  # folders inside a corpus or a stage while it is written
DTYPES = ("uint16", "uint32")
CORPUS_FOLDER = FolderKind(
    "corpus",
    re.compile(
        r"(corpus|tokenizer|build)\.json|part-\d{5,}(-\d{3,})?\.npy|part-\d{5,}-\d{3,}\.csv\.gz"
        r"|\.(corpus|tokenizer|build)\.json\.\d+\.tmp"
    ),
    BUILDING,
    (DESCRIPTION, PLAN),
    "building it",
)


@dataclass(frozen=True)
class Shard:
    """One file of token ids without a header, as ai2-olmo reads them.

    Attributes:
        path: absolute; in `corpus.json` the file's name.
        tokens: number of ids, EOS included.
        sha256: of the file's bytes.
    """

    path: Path
    tokens: int
    sha256: str


@dataclass(frozen=True)
class CorpusDescription:
    """The content of a corpus folder.

    Attributes:
        folder: absolute.
        tokenizer: absolute path of the folder's own `tokenizer.json`, or the name of a bundled tokenizer.
        vocabulary: fingerprint of the `Vocabulary` the shards were written with.
        dtype: numpy name of an id's type.
        vocab_size: number of ids of the tokenizer.
        eos_token_id: ends every document.
        pad_token_id: does not occur in the shards.
        shards: in the order of the corpus.
        documents: number of documents, which is the number of EOS tokens.
        sources: by source of text, its shards and counts.
    """

    folder: Path
    tokenizer: str
    vocabulary: str
    dtype: str
    vocab_size: int
    eos_token_id: int
    pad_token_id: int
    shards: tuple[Shard, ...]
    documents: int
    sources: dict[str, dict[str, Any]]

    @property
    def tokens(self) -> int:
        """Number of ids over all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def summary(self) -> str:
        """Numbers of documents, tokens and shards, in words."""
        return (
            f"{counted(self.documents, 'document')}, {counted(self.tokens, 'token')} in "
            f"{counted(len(self.shards), 'shard')}"
        )

    @property
    def paths(self) -> list[str]:
        """The shards' paths, as ai2-olmo's `data.paths` takes them."""
        return [str(shard.path) for shard in self.shards]

    def load_vocabulary(self) -> Vocabulary:
        """The vocabulary the shards were written with.

        Raises:
            UserError: the tokenizer is missing or is not the one recorded.
        """
        vocabulary = Vocabulary.load(
            self.tokenizer, eos_id=self.eos_token_id, pad_id=self.pad_token_id, size=self.vocab_size
        )
        if vocabulary.fingerprint != self.vocabulary:
            raise UserError(f"{self.tokenizer} is not the tokenizer that {self.folder} was written with")
        return vocabulary


def write_description(corpus: CorpusDescription) -> None:
    """Write `corpus.json` into `corpus.folder`; its paths are relative, so the folder can be moved."""
    fields = asdict(corpus)
    del fields["folder"]
    if Path(corpus.tokenizer) == corpus.folder / TOKENIZER:
        fields["tokenizer"] = TOKENIZER
    fields["shards"] = [asdict(shard) | {"path": shard.path.name} for shard in corpus.shards]
    write_json(corpus.folder / DESCRIPTION, {"format": FORMAT} | fields)


def read_corpus_folder(folder: Path, *, sizes_checked: bool = False) -> CorpusDescription:
    """Read `corpus.json` and check that every shard has the recorded size.

    Args:
        folder: with `corpus.json`.
        sizes_checked: another process has checked the sizes of the shards; they are not checked here.

    Raises:
        UserError: no corpus, another format, or a shard that is missing or of another size.
    """
    if not (folder / DESCRIPTION).is_file():
        for work, verb in ((BUILDING, "build"), (STAGING, "stage")):
            if (folder / work).is_dir():
                raise UserError(f"{folder} is not finished: the same `olmo-inject corpus {verb}` command continues")
        raise UserError(
            f"{folder / DESCRIPTION} does not exist: `olmo-inject corpus sample --out {folder}` writes a corpus of "
            "ai2-olmo's own text, `olmo-inject corpus build` one of yours; of one that has moved, name the new place "
            "(corpus.folder=FOLDER, or --corpus FOLDER where a run is read)"
        )
    folder = folder.resolve()
    path = folder / DESCRIPTION
    fields = read_fields(path, FORMAT, "corpora")
    try:
        shards = tuple(
            Shard(folder / shard["path"], int(shard["tokens"]), str(shard["sha256"])) for shard in fields.pop("shards")
        )
        corpus = CorpusDescription(folder=folder, shards=shards, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the description of a corpus: {error}") from None
    if corpus.dtype not in DTYPES:
        raise UserError(f"{path} has dtype {corpus.dtype}; allowed are {', '.join(DTYPES)}")
    for shard in () if sizes_checked else corpus.shards:
        _check_size(shard, np.dtype(corpus.dtype).itemsize)
    if corpus.tokenizer != TOKENIZER:
        return corpus
    tokenizer = folder / TOKENIZER
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer} is missing, although {DESCRIPTION} names it")
    return replace(corpus, tokenizer=str(tokenizer))


def _check_size(shard: Shard, itemsize: int) -> None:
    expected = shard.tokens * itemsize
    if not shard.path.is_file():
        raise UserError(f"{shard.path} is missing: {DESCRIPTION} records {expected:,} bytes")
    size = shard.path.stat().st_size
    if size != expected:
        raise UserError(f"{shard.path} holds {size:,} bytes where {DESCRIPTION} records {expected:,}")
