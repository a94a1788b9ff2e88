"""Recognize texts of any length by their runs of a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from olmo_inject.tasks import Ragged, Task

RUN = 4  # tokens of a run; a shorter text is one run
SHARED = 16  # texts may share a run; one with more occurrences than this is like a template's, and no evidence
_CHUNK = 2**16  # tokens hashed at once, so that they stay in the processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = (16, 26)  # the smallest and the largest filter


class Found(NamedTuple):
    """Occurrences of runs: run `run[i]` of text `text[i]` is at `place[i]`, so the text would begin at `start[i]`."""

    place: Int64[np.ndarray, " n"]
    text: Int64[np.ndarray, " n"]
    run: Int64[np.ndarray, " n"]
    anchor: Bool[np.ndarray, " n"]
    counted: Bool[np.ndarray, " n"]

    def where(self, chosen: np.ndarray) -> Found:
        """Some of the occurrences: those that a mask or indices choose."""
        return Found(*(column[chosen] for column in self))

    @property
    def start(self) -> Int64[np.ndarray, " n"]:
        """Where the text begins if it stands there whole."""
        return self.place - self.run


@dataclass(frozen=True)
class _Runs:
    """The distinct runs of one width, sorted by their hashes, and where each stands in the texts.

    Attributes:
        width: tokens of a run.
        hashes: of the runs, ascending.
        tokens: of the runs.
        first: occurrences `first[i]` to `first[i + 1]` are those of run i.
        occurrences: text, number of the run in it, whether it is the text's anchor, whether it counts.
        filter: whether some run's hash begins with these bits.
    """

    width: int
    hashes: UInt64[np.ndarray, " r"]
    tokens: UInt32[np.ndarray, "r w"]
    first: Int64[np.ndarray, " r_plus_1"]
    occurrences: Int64[np.ndarray, "o 4"]
    filter: Bool[np.ndarray, " f"]

    @property
    def shift(self) -> np.uint64:
        """Bits of a hash that the filter does not look at."""
        return np.uint64(64 - (len(self.filter).bit_length() - 1))

    def find(self, tokens: np.ndarray, begin: int, end: int) -> Found:
        """The occurrences of runs that begin in `tokens[begin:end]`."""
        places, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(begin, end, _CHUNK):
            stop = min(start + _CHUNK, end)
            hashes = _hashes(tokens[start : stop + self.width - 1], self.width)
            likely = np.flatnonzero(self.filter[hashes >> self.shift])
            number = np.minimum(np.searchsorted(self.hashes, hashes[likely]), len(self.hashes) - 1)
            same = self.hashes[number] == hashes[likely]
            likely, number = likely[same] + start, number[same]
            for i in range(self.width):  # hashes of different runs may be equal
                same = tokens[likely + i] == self.tokens[number, i]
                likely, number = likely[same], number[same]
            places.append(likely)
            numbers.append(number)
        place, number = np.concatenate(places), np.concatenate(numbers)
        counts = self.first[number + 1] - self.first[number]
        ends = np.cumsum(counts)
        at = np.arange(counts.sum()) + np.repeat(self.first[number] - (ends - counts), counts)
        text, run, anchor, counted = self.occurrences[at].T
        return Found(np.repeat(place, counts), text, run, anchor.astype(bool), counted.astype(bool))


class TextIndex:
    """The distinct texts of tasks, and what decides that one of them stands at a place.

    A text's anchor is its rarest run, which is looked for first. A near occurrence is judged by runs that are not
    shared by many texts.

    Args:
        tasks: whose instances are the texts.
        near: share of a text's runs that a near occurrence has.

    Attributes:
        texts: the distinct texts.
        numbers: for each task, the number in `texts` of each instance.
        counted: number of runs of each text that count.
        needed: how many of these make a near occurrence; more than `counted` if the text has none.
        slack: tokens by which these may be displaced: words may be missing or added.
        reach: tokens around a place that can decide what stands there.
    """

    def __init__(self, tasks: Sequence[Task], near: float) -> None:
        known: dict[bytes, int] = {}
        distinct: list[np.ndarray] = []
        self.numbers: dict[str, np.ndarray] = {}
        for task in tasks:
            for instance in task.instances:
                if (key := instance.tobytes()) not in known:
                    known[key] = len(distinct)
                    distinct.append(instance)
            numbers = [known[instance.tobytes()] for instance in task.instances]
            self.numbers[task.name] = np.array(numbers, np.int64)
        self.texts = Ragged.of(distinct)
        lengths = self.texts.lengths
        self.slack = np.maximum(RUN, lengths // 4)
        self.reach = int((2 * (lengths + self.slack)).max(initial=0)) + RUN
        self.counted = np.zeros(len(distinct), np.int64)
        widths = np.minimum(lengths, RUN)
        self._runs = [self._index(np.flatnonzero(widths == w), w) for w in np.unique(widths).tolist()]
        self.needed = np.maximum(1, np.ceil(near * self.counted - 1e-9)).astype(np.int64)

    @property
    def identity(self) -> bytes:
        """Everything that decides what is found."""
        return self.texts.values.tobytes() + self.texts.offsets.tobytes() + self.needed.tobytes()

    def find(self, tokens: np.ndarray, begin: int, end: int) -> Found:
        """The occurrences of runs.

        Args:
            tokens: of the corpus, [n].
            begin: the first place at which a run may begin.
            end: the place after the last.
        """
        columns = [runs.find(tokens, begin, end) for runs in self._runs]
        return Found(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def _index(self, texts: Int64[np.ndarray, " t"], width: int) -> _Runs:
        """The runs of the texts of one width."""
        n_runs = self.texts.lengths[texts] - width + 1
        text = np.repeat(texts, n_runs)
        run = np.arange(n_runs.sum()) - np.repeat(np.cumsum(n_runs) - n_runs, n_runs)
        tokens = self.texts.values[(self.texts.offsets[text] + run)[:, None] + np.arange(width)]
        rows = np.ascontiguousarray(tokens).view(np.dtype((np.void, tokens.itemsize * width))).reshape(-1)
        _, first, which, times = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
        rarity = times[which]
        rarest = np.lexsort((run, rarity, text))  # of each text the rarest run is the first, and of these the leftmost
        rarest = rarest[np.concatenate([[True], np.diff(text[rarest]) > 0])]
        anchor = np.zeros(len(text), bool)
        anchor[rarest] = True
        least = np.zeros(len(self.texts), np.int64)
        least[text[rarest]] = rarity[rarest]
        counts = (rarity <= np.maximum(SHARED, least[text])) & (self.texts.lengths[text] > width)
        np.add.at(self.counted, text[counts], 1)
        distinct = tokens[first]
        hashes = _hashes_of(distinct)
        order = np.argsort(hashes, kind="stable")
        of_run = np.empty_like(order)
        of_run[order] = np.arange(len(order))
        kept = anchor | counts
        owner = of_run[which][kept]
        by_run = np.argsort(owner, kind="stable")
        bits = int(np.clip((16 * len(order)).bit_length(), *_FILTER_BITS))
        starts = np.zeros(1 << bits, bool)
        starts[hashes >> np.uint64(64 - bits)] = True
        return _Runs(
            width,
            hashes[order],
            distinct[order],
            np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(order)))]),
            np.stack([text, run, anchor, counts], axis=1)[kept][by_run].astype(np.int64),
            starts,
        )


def _hashes(tokens: np.ndarray, width: int) -> UInt64[np.ndarray, " n"]:
    """A hash of the `width` tokens from each place on."""
    n = max(0, len(tokens) - width + 1)
    wide = tokens.astype(np.uint64)
    hashes = wide[:n] + np.uint64(1)
    for i in range(1, width):
        hashes *= _ODD
        hashes += wide[i : i + n]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _ODD
    return hashes


def _hashes_of(runs: UInt32[np.ndarray, "r w"]) -> UInt64[np.ndarray, " r"]:
    """The hash of each run, as `_hashes` gives it."""
    return _hashes(runs.reshape(-1), runs.shape[1])[:: runs.shape[1]]
