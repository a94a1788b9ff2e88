"""Natural statements in a shard's tokens: text is decoded only around the places that the prefilter leaves."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from olmo_inject.corpus.references import ReferenceItem, chosen
from olmo_inject.scan.chunks import Stretch
from olmo_inject.scan.prefilter import Prefilter
from olmo_inject.scan.statements import REACH_LEFT, REACH_RIGHT, Statement, statements

SLACK = 8  # bytes, so tokens, of the longest operator: its token that was found may not be its first
AROUND = REACH_RIGHT + 2 * SLACK + 1  # tokens from a place within which all stands that decides what it is


@dataclass
class FoundStatements:
    """What was found of one kind.

    Attributes:
        true: statements whose arithmetic is right; these are the reference task.
        false: the others.
        unaligned: true ones whose answer is no whole tokens, which cannot be scored.
        items: true ones to evaluate on, at most as many as asked for.
    """

    true: int = 0
    false: int = 0
    unaligned: int = 0
    items: list[ReferenceItem] = field(default_factory=list)

    def add(self, other: FoundStatements, most: int) -> None:
        """Count what another part of the corpus held."""
        self.true += other.true
        self.false += other.false
        self.unaligned += other.unaligned
        self.items = chosen(self.items + other.items, most)


class _Window(NamedTuple):
    """Tokens from `start` on as text, token i of them at bytes `bounds[i]` to `bounds[i + 1]`."""

    start: int
    bounds: list[int]
    text: bytes


@dataclass
class StatementFinder:
    """Finds statements in tokens.

    Attributes:
        prefilter: for the tokenizer.
        token_bytes: of every id.
        eos_id: separates documents; no statement reaches over it.
        context: tokens kept before an answer, fewer where the document begins later.
        most: items kept of each kind.
    """

    prefilter: Prefilter
    token_bytes: Sequence[bytes]
    eos_id: int
    context: int
    most: int
    found: dict[str, FoundStatements] = field(default_factory=dict)

    @property
    def around(self) -> int:
        """Tokens before and after a place that can decide what is there, or are kept of it."""
        return max(AROUND, self.context)

    def look(self, stretch: Stretch, places: Int64[np.ndarray, " n"], begin: int, end: int, shard: str) -> None:
        """Count the statements at `places`, indices of anchors, whose operator begins in tokens `begin` to `end`."""
        seen: set[tuple[int, int]] = set()
        for place in self.prefilter.survivors(stretch.tokens, places).tolist():
            window = self._window(stretch, place)
            at = place - window.start
            for statement in statements(window.text, window.bounds[at], window.bounds[at + 1]):
                inside = bisect_right(window.bounds, statement.operator) - 1
                where = (window.start + inside, statement.operator - window.bounds[inside])
                if begin <= where[0] < end and where not in seen:  # two anchors may stand in one operator
                    seen.add(where)
                    self._count(stretch, window, statement, shard)

    def _window(self, stretch: Stretch, place: int) -> _Window:
        """The part of the document around `place` on which a statement can depend: a token is a byte at least."""
        first, beyond = stretch.bounds(place)
        start = max(first, place - REACH_LEFT - SLACK)
        ids = stretch.tokens[start : min(beyond, place + REACH_RIGHT + SLACK + 1)].tolist()
        at = place - start
        if self.eos_id in ids:
            before = next((i + 1 for i in range(at - 1, -1, -1) if ids[i] == self.eos_id), 0)
            after = next((i for i in range(at + 1, len(ids)) if ids[i] == self.eos_id), len(ids))
            start, ids = start + before, ids[before:after]
        parts = [self.token_bytes[i] for i in ids]
        return _Window(start, list(accumulate(map(len, parts), initial=0)), b"".join(parts))

    def _count(self, stretch: Stretch, window: _Window, statement: Statement, shard: str) -> None:
        found = self.found.setdefault(statement.kind, FoundStatements())
        if not statement.true:
            found.false += 1
            return
        found.true += 1
        bounds, text = window.bounds, window.text
        first = bisect_right(bounds, statement.answer) - 1
        last = bisect_left(bounds, statement.end)
        lead = text[bounds[first] : statement.answer]
        if (lead and not lead.isspace()) or bounds[last] != statement.end:
            found.unaligned += 1
            return
        answer = window.start + first
        opening = window.start + bisect_right(bounds, statement.start) - 1
        item = ReferenceItem(
            context=tuple(self._context(stretch, answer, opening)),
            answer=tuple(stretch.tokens[answer : window.start + last].tolist()),
            text=text[statement.start : statement.end].decode(errors="replace"),
            shard=shard,
            offset=stretch.base + answer,
        )
        found.items.append(item)
        if len(found.items) > 4 * self.most:
            found.items = chosen(found.items, self.most)

    def _context(self, stretch: Stretch, answer: int, opening: int) -> list[int]:
        """So many tokens before the answer, from the beginning of a document on, but always the whole statement."""
        first, _ = stretch.bounds(answer)
        ids = stretch.tokens[max(first, min(answer - self.context, opening)) : answer].tolist()
        while self.eos_id in ids:
            ids = ids[ids.index(self.eos_id) + 1 :]
        return ids
