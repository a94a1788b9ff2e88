"""Where texts occur in a corpus: exact and near occurrences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from olmo_inject.scan.chunks import Stretch
from olmo_inject.scan.hits import Place
from olmo_inject.scan.text_index import RUN, Found, TextIndex

PLACES = 5  # maximum places kept of each text, of exact and of near occurrences; counts are exact beyond that
SHOWN = 32  # tokens kept of a place


class TextPlace(NamedTuple):
    """A place where a text stands: its number, the share of its runs that stand there (1: exact), and where."""

    text: int
    share: float
    exact: bool
    place: Place


@dataclass
class TextHits:
    """Occurrences of texts.

    Attributes:
        exact: how often each text stands in the corpus, token for token; occurrences may overlap.
        near: at how many other places most of it stands.
        nearest: largest share of its runs at such a place.
        places: the first `PLACES` of each text and sort.
    """

    exact: Int64[np.ndarray, " t"]
    near: Int64[np.ndarray, " t"]
    nearest: Float[np.ndarray, " t"]
    places: list[TextPlace] = field(default_factory=list)
    _kept: dict[tuple[int, bool], int] = field(default_factory=dict)

    @classmethod
    def none(cls, n: int) -> TextHits:
        """No occurrences of `n` texts."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        counts = {name: getattr(self, name).tolist() for name in ("exact", "near", "nearest")}
        return counts | {"places": [list(place) for place in self.places]}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TextHits:
        """What `record` gave, also through JSON."""
        hits = cls(np.array(record["exact"], int), np.array(record["near"], int), np.array(record["nearest"], float))
        for text, share, exact, (shard, offset, tokens) in record["places"]:
            hits._keep(TextPlace(text, share, exact, Place(shard, offset, tuple(tokens))))
        return hits

    def add(self, other: TextHits) -> None:
        """Add the hits of a later part of the corpus."""
        self.exact += other.exact
        self.near += other.near
        self.nearest = np.maximum(self.nearest, other.nearest)
        for place in other.places:
            self._keep(place)

    def count(self, place: TextPlace) -> None:
        """Count one occurrence."""
        (self.exact if place.exact else self.near)[place.text] += 1
        if not place.exact:
            self.nearest[place.text] = max(self.nearest[place.text], place.share)
        self._keep(place)

    def _keep(self, place: TextPlace) -> None:
        sort = place.text, place.exact
        self._kept[sort] = self._kept.get(sort, 0) + 1
        if self._kept[sort] <= PLACES:
            self.places.append(place)


def look_for_texts(index: TextIndex, stretch: Stretch, begin: int, end: int, shard: int, hits: TextHits) -> None:
    """Count the texts that begin in tokens `begin` to `end`.

    What is found at a place depends only on the `index.reach` tokens around it, so it is the same however the corpus is
    divided.

    Args:
        index: of the texts.
        stretch: of the shard.
        begin: first token.
        end: first token after the last.
        shard: number of the shard.
        hits: to add to.
    """
    tokens = stretch.tokens
    matches = index.find(tokens, max(0, begin - index.reach), min(len(tokens), end + index.reach))
    matches = matches.where(stretch.whole(matches.place, np.minimum(index.texts.lengths[matches.text], RUN)))
    exact = _exact(index, stretch, matches.where(matches.anchor))
    near = _near(index, stretch, matches.where(matches.counted), exact)
    for place, text, share in sorted([(*where, 1.0) for where in exact] + near):
        if begin <= place < end:
            shown = tokens[place : place + min(SHOWN, int(index.texts.lengths[text]))]
            where = Place(shard, stretch.base + place, tuple(shown.tolist()))
            hits.count(TextPlace(text, share, (place, text) in exact, where))


def _exact(index: TextIndex, stretch: Stretch, anchors: Found) -> set[tuple[int, int]]:
    """Place and text of each exact occurrence, given the places of the texts' anchors."""
    tokens, texts = stretch.tokens, index.texts
    length = texts.lengths[anchors.text]
    fits = (anchors.start >= 0) & (anchors.start + length <= len(tokens))
    fits &= stretch.first(anchors.place) == stretch.first(anchors.start)
    anchors = anchors.where(fits & stretch.whole(anchors.start, length))
    start, text = anchors.start, anchors.text
    for i in range(int(texts.lengths[text].max(initial=0))):  # most places that differ do so soon
        at = np.minimum(i, texts.lengths[text] - 1)
        same = tokens[start + at] == texts.values[texts.offsets[text] + at]
        if not same.all():
            start, text = start[same], text[same]
        if not len(text):
            break
    return set(zip(start.tolist(), text.tolist(), strict=True))


def _near(
    index: TextIndex, stretch: Stretch, matches: Found, exact: set[tuple[int, int]]
) -> list[tuple[int, int, float]]:
    """Place, text and share of runs of each near occurrence.

    A text stands near a place if enough of its runs stand where they would if it stood there, displaced by at most its
    slack. Of places closer than the text's length only the one with the most runs counts, and none beside an exact
    occurrence.
    """
    first = stretch.first(matches.place)
    order = np.lexsort((matches.run, matches.start, first, matches.text))
    matches, first = matches.where(order), first[order]
    text, start, length = matches.text, matches.start, index.texts.lengths[matches.text]
    if not len(text):
        return []
    group = np.cumsum(np.concatenate([[False], (np.diff(text) != 0) | (np.diff(first) != 0)]))
    span = int(start.max() - start.min() + np.maximum(index.slack[text], length).max()) + 1
    key = group * span + start - start.min()  # as far apart as the places, and farther if the texts or rows differ
    beyond = np.searchsorted(key, key + index.slack[text], side="right")
    leads = np.concatenate([[True], np.diff(key) > 0])
    likely = np.flatnonzero(leads & (beyond - np.arange(len(key)) >= index.needed[text]))
    matched = np.array([len(np.unique(matches.run[i : beyond[i]])) for i in likely.tolist()], np.int64)
    likely, matched = (values[matched >= index.needed[text[likely]]] for values in (likely, matched))
    is_exact = np.array([where in exact for where in zip(start[likely].tolist(), text[likely].tolist(), strict=True)])
    weight = matched + is_exact.astype(np.int64)  # an exact occurrence outweighs what is beside it
    low = np.searchsorted(key[likely], key[likely] - length[likely], side="right")
    high = np.searchsorted(key[likely], key[likely] + length[likely], side="left")
    return [
        (max(int(start[i]), int(first[i])), int(text[i]), float(matched[n] / index.counted[text[i]]))
        for n, i in enumerate(likely.tolist())
        if not is_exact[n] and low[n] + np.argmax(weight[low[n] : high[n]]) == n
    ]
