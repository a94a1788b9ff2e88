"""The training order, which maps positions to sequences: ai2-olmo's shuffle, bit for bit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt32

from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.utils import locks
from olmo_inject.utils.files import mapped, replacing

# Processes share shuffles on disk from this number of sequences on. Below it each process shuffles 4 MB in 10 ms, and
# the many epochs of a small corpus would need many files.
SHARED_FROM = 2**20
# Positions in a file, or a multiple, so that runs of several lengths share it: 205 MB. Beyond 50,000 steps, since the
# gradients of a run's last checkpoint are those of the batch after its last step.
STORED_AT_ONCE = 50_100 * 1024
WRITTEN_AT_ONCE = SEARCHED_AT_ONCE = 2**22  # positions
MAX_SEQUENCES = 2**32 - 1  # ai2-olmo's indices are uint32

SUM_BYTES = hashlib.sha256().digest_size  # a stored shuffle ends with two: of what it is, and of its positions


class Stamp(NamedTuple):
    """The same on every node that sees the same stored shuffle, and another one when it is replaced."""

    inode: int
    modified: int
    size: int


class Order:
    """Maps positions 0, 1, 2, ... through all epochs to sequences.

    Each epoch has a shuffle of its own and holds `n_sequences // batch_size` whole batches, as ai2-olmo's loader with
    `drop_last`. Position `p` is row `p % batch_size` of step `p // batch_size`.

    Args:
        n_sequences: number of sequences in the corpus, at most 2^32 - 1.
        batch_size: the global batch size.
        seed: ai2-olmo's `data.seed`; epoch e is shuffled with seed + e.
        folder: where `prepare` stores shuffles that all processes then map. None: nothing is stored, and the last two
            epochs used are kept in memory (4 bytes per sequence).
        second: where `prepare` stores them if it cannot write `folder`. Both are read.
        checked: stored shuffles that have the right checksum; others are checked before they are read.

    Raises:
        UserError: the batch is larger than the corpus, or the corpus has too many sequences.
    """

    def __init__(
        self,
        n_sequences: int,
        batch_size: int,
        seed: int,
        folder: Path | None = None,
        second: Path | None = None,
        checked: Collection[Stamp] = (),
    ) -> None:
        if batch_size < 1:
            raise UserError(f"corpus: a batch of {batch_size} sequences; it must have at least 1")
        if n_sequences < batch_size:
            raise UserError(f"corpus: {n_sequences} sequences do not fill one batch of {batch_size}")
        if n_sequences > MAX_SEQUENCES:
            raise UserError(f"corpus: {n_sequences} sequences are more than ai2-olmo's {MAX_SEQUENCES}")
        self.n_sequences = n_sequences
        self.batch_size = batch_size
        self.seed = seed
        self.folder, self.second = folder, second
        self.checked = set(checked)
        self.epoch_length = n_sequences // batch_size * batch_size  # positions
        self._epoch = lru_cache(maxsize=2)(self._load_epoch)
        self._in_memory = lru_cache(maxsize=2)(self._shuffle)

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.n_sequences, self.batch_size, self.seed, self.folder, self.second, self.checked)

    def __getitem__(self, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """The sequences at `positions`."""
        epochs, places = np.divmod(positions, self.epoch_length)
        first = int(epochs[0]) if len(epochs) else 0
        if (epochs == first).all():
            return self._at(first, places).astype(np.int64)
        out = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            out[mine] = self._at(int(epoch), places[mine])
        return out

    @property
    def epoch_steps(self) -> int:
        """Number of whole batches in an epoch."""
        return self.n_sequences // self.batch_size

    def prepare(self, n_positions: int, first: int = 0) -> None:
        """Store the shuffles of positions `first` to `n_positions`, unless they are stored already or have no folder.

        Of the last epoch `STORED_AT_ONCE` positions are stored, or as many times that as needed. If several processes
        ask for a shuffle at once, one computes it and the others wait.

        Raises:
            UserError: no folder can be written, or a file is damaged.
        """
        if self.folder is None:
            return
        for epoch in range(first // self.epoch_length, -(-n_positions // self.epoch_length)):
            needed = min(self.epoch_length, n_positions - epoch * self.epoch_length)
            path = self._stored(epoch, needed)
            if path is None:
                path = self._store(epoch, min(self.epoch_length, -(-needed // STORED_AT_ONCE) * STORED_AT_ONCE))
            self._check(path)
        self._epoch.cache_clear()  # a mapped file may be shorter than the new one

    @property
    def rows(self) -> Int64[np.ndarray, " r"]:
        """The rows of each batch that the corpus holds."""
        return np.arange(self.batch_size)

    def require(self, steps: range, rows: Int64[np.ndarray, " r"], what: str = "corpus.folder") -> None:
        """Check that the corpus holds the given rows of every batch in the given steps. Only a stage may lack some.

        Args:
            steps: plan steps.
            rows: of each batch.
            what: the key or option that asks for them, for messages.

        Raises:
            UserError: it does not.
        """

    def first_positions(self, sequences: Sequence[int], steps: int) -> dict[int, int]:
        """The first position in `steps` steps that reads each of `sequences`; sequences never read are left out."""
        wanted = np.unique(np.array(sequences, np.int64))
        first: dict[int, int] = {}
        total = steps * self.batch_size
        for start in range(0, total if len(wanted) else 0, SEARCHED_AT_ONCE):
            read = self[np.arange(start, min(start + SEARCHED_AT_ONCE, total), dtype=np.int64)]
            for place in np.flatnonzero(np.isin(read, wanted)).tolist():
                first.setdefault(int(read[place]), start + place)
            if len(first) == len(wanted):
                break
        return first

    def _at(self, epoch: int, places: Int64[np.ndarray, " b"]) -> UInt32[np.ndarray, " b"]:
        shuffled = self._epoch(epoch)
        if len(places) and places.max() >= len(shuffled):  # a shorter run stored it, and nobody prepared more
            shuffled = self._in_memory(epoch)
        return shuffled[places]

    def _load_epoch(self, epoch: int) -> UInt32[np.ndarray, " n"]:
        if (path := self._stored(epoch)) is not None:
            self._check(path)
            return mapped(path, np.uint32)[: -2 * SUM_BYTES // 4]
        return self._in_memory(epoch)

    def _shuffle(self, epoch: int) -> UInt32[np.ndarray, " n"]:
        return _shuffled(self.n_sequences, self.seed + epoch)

    def _identity(self, epoch: int) -> bytes:
        """A checksum of what decides an epoch's shuffle; numpy's own way to shuffle is in it by an example."""
        decides = f"{self.n_sequences} sequences, seed {self.seed}, epoch {epoch}: "
        return hashlib.sha256(decides.encode() + _shuffled(1000, self.seed + epoch).tobytes()).digest()

    def _store(self, epoch: int, length: int) -> Path:
        """Write the first `length` positions of an epoch to the first folder that can be written."""
        shuffled: UInt32[np.ndarray, " n"] | None = None
        problem: UserError | None = None
        for path in self._paths(epoch):
            try:
                with locks.in_turn(path.with_suffix(".lock")):
                    if (stored := self._stored(epoch, length)) is not None:  # its writer has been waited for
                        return stored
                    shuffled = self._shuffle(epoch) if shuffled is None else shuffled
                    content = shuffled[:length].data
                    with replacing(path) as temporary, temporary.open("wb") as file:
                        file.write(content)
                        file.write(self._identity(epoch) + hashlib.sha256(content).digest())
                return path
            except UserError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _stored(self, epoch: int, length: int = 0) -> Path | None:
        """The longest file of an epoch if it holds `length` positions. A file of another order counts as absent."""
        lengths = {path: self._length(path, epoch) for path in self._paths(epoch)}
        longest = max(lengths, key=lambda path: lengths[path], default=None)
        return longest if longest is not None and lengths[longest] >= max(1, length) else None

    def _length(self, path: Path, epoch: int) -> int:
        """The positions that a file holds of an epoch: 0 if there is none, or of another order or version."""
        try:
            with path.open("rb") as file:
                place = file.seek(-2 * SUM_BYTES, os.SEEK_END)
                return place // 4 if file.read(SUM_BYTES) == self._identity(epoch) else 0
        except OSError:  # also a file that is shorter
            return 0

    def _check(self, path: Path) -> None:
        """Compare a stored shuffle with its checksum, at about one GB per second, unless that was done."""
        status = path.stat()
        if (stamp := Stamp(status.st_ino, status.st_mtime_ns, status.st_size)) in self.checked:
            return
        content = mapped(path, np.uint8)
        if hashlib.sha256(content[: -2 * SUM_BYTES].data).digest() != content[-SUM_BYTES:].tobytes():
            raise FoundByOneRank(f"corpus: {path} is damaged: it does not hold the order that was stored; delete it")
        self.checked.add(stamp)

    def _paths(self, epoch: int) -> Iterator[Path]:
        name = f"epoch{epoch}-n{self.n_sequences}-seed{self.seed}.u32"
        return (folder / name for folder in (self.folder, self.second) if folder is not None)


def _shuffled(n: int, seed: int) -> UInt32[np.ndarray, " n"]:
    # Equal to olmo.data.IterableDataset._build_global_indices, on which the order of the OLMo runs depends.
    indices = np.arange(n, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed=seed)).shuffle(indices)
    return indices


def write_order(order: Order, positions: range, path: Path) -> None:
    """Write the sequences at consecutive positions as raw uint32, whole or not at all.

    Args:
        order: maps positions to sequences.
        positions: consecutive positions.
        path: the file to write.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        for start in positions[::WRITTEN_AT_ONCE]:
            # Not `tofile`, which does not report why it fails.
            file.write(order[np.arange(start, min(start + WRITTEN_AT_ONCE, positions.stop))].astype(np.uint32).data)
