"""Shards of token ids on disk: maps a sequence's number to its tokens."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from olmo_inject.corpus.not_token_ids import LOOKED_AT, check_tokens
from olmo_inject.corpus.sources import LocalSource, Source
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.utils.files import mapped, sha256_of_json

DTYPES = {"uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64}


class TokenShards:
    """Raw memory-mapped arrays of token ids, read as sequences of one length.

    As in ai2-olmo's `MemMapDataset`, sequences are numbered through the shards in order, and the remainder of a shard
    is not used. A read finds its shard by bisection, so its cost does not grow with the number of shards.

    Args:
        paths: the shards in order; one may occur more than once (up-sampling).
        sequence_length: tokens of a sequence.
        dtype: of an id: `uint8`, `uint16`, `uint32` or `uint64`.
        vocab_size: an id at or above it raises an error; None accepts all ids.
        sizes: bytes of each shard, from a manifest; another size raises an error.
        sums: SHA-256 of each shard, as its folder records it; `corpus verify` checks them, reading does not.
        sizes_checked: True: another process has checked all files, and `sizes` are what it found. This one looks at a
            file when it first reads a sequence of it.

    Attributes:
        is_running_text: whether consecutive sequences of a shard are consecutive text; in a stage they are not.
        names: of the shards, as `source` knows them.
        sizes: bytes of each shard.
        offsets: the first sequence of each shard, and the number of sequences.

    Raises:
        UserError: a file is missing, empty, truncated or holds no token ids; the dtype is not a token type or cannot
            hold the vocabulary. When reading, also a file that has changed.
    """

    is_running_text = True

    def __init__(
        self,
        paths: Sequence[Path],
        sequence_length: int,
        dtype: str = "uint16",
        vocab_size: int | None = None,
        sizes: Sequence[int] | None = None,
        sums: Sequence[str] | None = None,
        *,
        sizes_checked: bool = False,
    ) -> None:
        self._sums = None if sums is None else list(sums)
        self._describe([str(path) for path in paths], sequence_length, dtype, vocab_size)
        distinct = list(dict.fromkeys(self.paths))
        _allow_open_files(len(distinct))
        self._mapped: dict[str, np.ndarray] = {}  # by name, each from its first read on
        if sizes_checked:
            assert sizes is not None
            self._lay_out(sizes)
            return
        size_of = {path: _look_at(path, self.dtype) for path in distinct}
        self._lay_out([size_of[path] for path in self.paths])
        if sizes is not None:
            for name, size, expected in zip(self.names, self.sizes, sizes, strict=True):
                self.source.check_size(name, size, expected)

    def _describe(self, names: Sequence[str], sequence_length: int, dtype: str, vocab_size: int | None) -> None:
        if not names:
            raise UserError("corpus: there are no shards; name at least one path")
        if sequence_length < 1:
            raise UserError(f"corpus: sequence length {sequence_length} must be at least 1")
        if dtype not in DTYPES:
            raise UserError(f"corpus: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        if vocab_size is not None and vocab_size - 1 > np.iinfo(DTYPES[dtype]).max:
            raise UserError(f"corpus: dtype {dtype} cannot hold the ids of a vocabulary of {vocab_size}")
        self.names = list(names)
        self.paths = [Path(name) for name in names]
        self.sequence_length = sequence_length
        self.dtype = np.dtype(DTYPES[dtype])
        self.vocab_size = vocab_size

    def _lay_out(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.sequence_bytes = self.sequence_length * self.dtype.itemsize
        lengths = [size // self.sequence_bytes for size in sizes]
        self.offsets: Int64[np.ndarray, " shards+1"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if len(self) == 0:
            raise UserError(
                f"corpus: no shard holds a whole sequence of {self.sequence_length} tokens (the first is "
                f"{self.names[0]})"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        vocabulary, sums = self.vocab_size, self._sums
        known = (self.paths, self.sequence_length, self.dtype.name, vocabulary, self.sizes, sums)
        return partial(TokenShards, sizes_checked=True), known

    def __len__(self) -> int:
        """The number of sequences."""
        return int(self.offsets[-1])

    def read(self, sequences: Int64[np.ndarray, " b"]) -> UInt[np.ndarray, "b t"]:
        """The tokens of `sequences`, in the dtype of the shards.

        Raises:
            IndexError: a sequence is outside the corpus.
            UserError: a token id is outside the vocabulary.
        """
        if len(sequences) and not 0 <= sequences.min() <= sequences.max() < len(self):
            raise IndexError(f"sequences {sequences.min()}..{sequences.max()} are not all in 0..{len(self) - 1}")
        shards = np.searchsorted(self.offsets, sequences, side="right") - 1
        starts = (sequences - self.offsets[shards]) * self.sequence_length
        out = np.empty((len(sequences), self.sequence_length), self.dtype)
        self._fill(out, shards, starts)
        if self.vocab_size is not None and out.size and out.max() >= self.vocab_size:
            self._refuse_foreign_id(sequences, shards, out)
        return out

    def _fill(self, out: np.ndarray, shards: np.ndarray, starts: np.ndarray) -> None:
        length = self.sequence_length
        for row, (shard, start) in enumerate(zip(shards.tolist(), starts.tolist(), strict=True)):
            array = self._mapped.get(self.names[shard])
            if array is None:
                array = self._map(shard)
            out[row] = array[start : start + length]

    def _map(self, shard: int) -> np.ndarray:
        name, path = self.names[shard], self.paths[shard]
        try:
            array = mapped(path, self.dtype)
        except (OSError, ValueError) as error:  # ValueError: of another size than whole ids
            raise UserError(f"corpus: cannot read shard {path}: {getattr(error, 'strerror', None) or error}") from None
        if array.nbytes != self.sizes[shard]:
            raise UserError(f"corpus: {path} has {array.nbytes:,} bytes and had {self.sizes[shard]:,}: it has changed")
        self._mapped[name] = array
        return array

    @property
    def source(self) -> Source:
        """The source from which the shards are read by byte ranges."""
        return LocalSource("")

    @property
    def is_local(self) -> bool:
        """Whether the shards are files of this machine."""
        return self.source.local_path(self.names[0]) is not None

    @property
    def corpus_sequences(self) -> int:
        """The number of sequences of the whole corpus, of which a stage holds a part."""
        return len(self)

    @property
    def shard_tokens(self) -> list[int]:
        """Tokens of each shard, with the remainder that no sequence uses."""
        return [size // self.dtype.itemsize for size in self.sizes]

    def locate(self, sequence: int) -> tuple[Path, int]:
        """The shard of a sequence, and the index of its first token there."""
        shard = int(np.searchsorted(self.offsets, sequence, side="right")) - 1
        return self.paths[shard], (sequence - int(self.offsets[shard])) * self.sequence_length

    def check_sample(self, n: int = 256) -> None:
        """Read `n` sequences spread over the corpus, to detect a wrong dtype or tokenizer early.

        Raises:
            UserError: a token id is outside the vocabulary, or every other token is 0 (the dtype is wider).
        """
        tokens = self.read(np.unique(np.linspace(0, len(self) - 1, n).astype(np.int64)))
        for phase in (0, 1):
            if tokens.size >= 64 and not tokens.reshape(-1)[phase::2].any():
                raise UserError(
                    f"corpus: every other token is 0, so {self.paths[0]} looks wider than {self.dtype.name}; "
                    "set corpus.dtype to the type that the shards were written with"
                )

    def fingerprint(self) -> str:
        """SHA-256 of the shards' names and sizes, the dtype and the sequence length.

        It covers sizes, not contents: hashing 3.6 TB before a run takes too long. `contents` covers the contents if
        they are recorded, and the audit hashes the rows that the model was given.
        """
        return fingerprint(self.names, self.sizes, self.dtype.name, self.sequence_length)

    def contents(self) -> str | None:
        """SHA-256 of the shards' recorded SHA-256s in order; None if none are recorded."""
        return None if self._sums is None else sha256_of_json(self._sums)

    def identity(self) -> str:
        """SHA-256 of the fingerprint, the shards' addresses, and their contents or times of modification if known.

        It tells apart corpora whose shards have equal names and sizes, and so names what is kept of one. A corpus that
        was moved has another.

        Raises:
            UserError: a shard cannot be read.
        """
        source = self.source
        addresses = [source.address(name) for name in self.names]
        contents = self.contents() or [_modified(source.local_path(name)) for name in self.names]
        return sha256_of_json([self.fingerprint(), addresses, contents])

    def _refuse_foreign_id(self, sequences: np.ndarray, shards: np.ndarray, tokens: np.ndarray) -> None:
        row = int(tokens.max(axis=1).argmax())
        raise FoundByOneRank(
            f"corpus: {self.paths[shards[row]]} holds token id {tokens[row].max()} in sequence {sequences[row]}, "
            f"at or beyond the vocabulary of {self.vocab_size}: wrong tokenizer or dtype ({self.dtype.name})?"
        )


def fingerprint(names: Sequence[str], sizes: Sequence[int], dtype: str, sequence_length: int) -> str:
    """The fingerprint of a corpus; the same wherever its shards are.

    Args:
        names: of the shards in order; folders do not count.
        sizes: bytes of each shard.
        dtype: of an id.
        sequence_length: tokens of a sequence.
    """
    record = [[Path(name).name, size] for name, size in zip(names, sizes, strict=True)]
    return sha256_of_json([record, dtype, sequence_length])


def _look_at(path: Path, dtype: np.dtype) -> int:
    """The bytes of a shard, whose first ones can be token ids."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(LOOKED_AT)
    except OSError as error:
        raise UserError(f"corpus: cannot read shard {path}: {error.strerror}") from None
    check_tokens(str(path), head, dtype)
    if size == 0 or size % dtype.itemsize:
        raise UserError(
            f"corpus: {path} has {size} bytes, not a positive multiple of {dtype.itemsize} ({dtype.name}): truncated?"
        )
    return size


def _modified(path: Path | None) -> int | None:
    """When a local file was modified."""
    try:
        return None if path is None else path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"corpus: cannot read shard {path}: {error.strerror}") from None


def _allow_open_files(n: int) -> None:
    """Raise the limit of open files: each mapped shard holds one, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n + 512  # for everything else in the process
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(f"corpus: {n} shards need {needed} open files, the limit is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
