"""A corpus folder: raw token shards with `corpus.json`, which says what they hold, beside them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json
from olmo_inject.vocabulary import Vocabulary
from olmo_inject.words import counted

FORMAT = 1
DESCRIPTION = "corpus.json"
TOKENIZER = "tokenizer.json"
PLAN = "build.json"  # of `corpus build`: what is built from what
BUILDING, STAGING = ".build", ".staging"  # inside a corpus, or a stage, while it is made
DTYPES = ("uint16", "uint32")
# The files of a corpus folder, those that a kill may leave among them: what `--overwrite` may remove.
OWN_FILES = re.compile(
    r"(corpus|tokenizer|build)\.json|part-\d{5,}(-\d{3,})?\.npy|part-\d{5,}-\d{3,}\.csv\.gz"
    r"|\.(corpus|tokenizer|build)\.json\.\d+\.tmp"
)


@dataclass(frozen=True)
class Shard:
    """One file of token ids without a header, as ai2-olmo reads them.

    Attributes:
        path: absolute in a description that was read; the file's name in `corpus.json`.
        tokens: number of ids, EOS included.
        sha256: of the file's bytes.
    """

    path: Path
    tokens: int
    sha256: str


@dataclass(frozen=True)
class CorpusDescription:
    """What a corpus folder holds.

    Attributes:
        folder: absolute.
        tokenizer: absolute path of the folder's own `tokenizer.json`, or the name of a bundled tokenizer.
        vocabulary: fingerprint of the `Vocabulary` the shards were written with.
        dtype: numpy name of the type of one id.
        vocab_size: number of ids of the tokenizer.
        eos_token_id: ends every document.
        pad_token_id: never in the shards.
        shards: in the order in which their tokens count.
        documents: number of documents, which is the number of EOS tokens.
        sources: per source of text, its shard and its counts.
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
        """How much it is, for people."""
        return (
            f"{counted(self.documents, 'document')}, {counted(self.tokens, 'token')} in "
            f"{counted(len(self.shards), 'shard')}"
        )

    @property
    def paths(self) -> list[str]:
        """The shards' paths as ai2-olmo's `data.paths` wants them."""
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


def foreign_entry(folder: Path, names: re.Pattern[str], work: str) -> str | None:
    """The first entry of `folder` that is neither a file of one of `names` nor the folder `work`; None: no other is."""

    def is_own(path: Path) -> bool:
        return path.is_dir() if path.name == work else path.is_file() and names.fullmatch(path.name) is not None

    return min((path.name for path in folder.iterdir() if not is_own(path)), default=None)


def write_description(corpus: CorpusDescription) -> None:
    """Write `corpus.json` into `corpus.folder`, with paths relative to it so that the folder can be moved."""
    fields = asdict(corpus)
    del fields["folder"]
    if Path(corpus.tokenizer) == corpus.folder / TOKENIZER:
        fields["tokenizer"] = TOKENIZER
    fields["shards"] = [asdict(shard) | {"path": shard.path.name} for shard in corpus.shards]
    write_json(corpus.folder / DESCRIPTION, {"format": FORMAT} | fields)


def read_corpus_folder(folder: Path) -> CorpusDescription:
    """Read `corpus.json` and check that every shard is there with the size recorded.

    Raises:
        UserError: no corpus, one of another format, or a shard that is missing or of another size.
    """
    if not (folder / DESCRIPTION).is_file():
        for work, verb in ((BUILDING, "build"), (STAGING, "stage")):
            if (folder / work).is_dir():
                raise UserError(f"{folder} is not finished: the `olmo-inject corpus {verb}` that began it goes on")
        raise UserError(
            f"{folder / DESCRIPTION} does not exist: `olmo-inject corpus sample --out {folder}` makes a corpus of "
            "ai2-olmo's own text, `olmo-inject corpus build` one of yours"
        )
    folder = folder.resolve()
    path = folder / DESCRIPTION
    fields = read_json(path)
    found_format = fields.pop("format", None) if isinstance(fields, dict) else None
    if found_format != FORMAT:
        raise UserError(f"{path} has format {found_format}; this version reads format {FORMAT}")
    try:
        shards = tuple(
            Shard(folder / shard["path"], int(shard["tokens"]), str(shard["sha256"])) for shard in fields.pop("shards")
        )
        corpus = CorpusDescription(folder=folder, shards=shards, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the description of a corpus: {error}") from None
    if corpus.dtype not in DTYPES:
        raise UserError(f"{path} has dtype {corpus.dtype}; allowed are {', '.join(DTYPES)}")
    for shard in corpus.shards:
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
    found = shard.path.stat().st_size
    if found != expected:
        raise UserError(f"{shard.path} holds {found:,} bytes where {DESCRIPTION} records {expected:,}")
