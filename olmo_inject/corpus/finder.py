"""Natural statements in a shard's tokens: text is decoded only around the places that the prefilter leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from olmo_inject.corpus.prefilter import Prefilter
from olmo_inject.corpus.references import ReferenceItem, chosen
from olmo_inject.corpus.statements import REACH_LEFT, REACH_RIGHT, Statement, statements

SLACK = 8  # bytes, so tokens, of the longest operator: its token that was found may not be its first


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

    def look(self, tokens: np.ndarray, places: Int64[np.ndarray, " n"], begin: int, end: int, shard: str) -> None:
        """Count the statements at `places`, indices of anchors, whose operator begins in tokens `begin` to `end`."""
        seen: Counter[tuple[int, int]] = Counter()
        for place in self.prefilter.survivors(tokens, places).tolist():
            start, bounds, text = self._window(tokens, place)
            at = place - start
            for statement in statements(text, int(bounds[at]), int(bounds[at + 1])):
                inside = int(np.searchsorted(bounds, statement.operator, side="right")) - 1
                where = (start + inside, statement.operator - int(bounds[inside]))
                if begin <= where[0] < end and not seen[where]:  # two anchors may stand in one operator
                    seen[where] += 1
                    self._count(tokens, start, bounds, text, statement, shard)

    def _window(self, tokens: np.ndarray, place: int) -> tuple[int, Int64[np.ndarray, " n"], bytes]:
        """The part of the document around `place` on which a statement can depend: a token is a byte at least."""
        start = max(0, place - REACH_LEFT - SLACK)
        stop = min(len(tokens), place + REACH_RIGHT + SLACK + 1)
        ends = np.flatnonzero(tokens[start:stop] == self.eos_id) + start
        start = max([start, *(ends[ends < place] + 1).tolist()])
        stop = min([stop, *ends[ends > place].tolist()])
        parts = [self.token_bytes[i] for i in tokens[start:stop].tolist()]
        bounds = np.cumsum([0, *map(len, parts)])
        return start, bounds, b"".join(parts)

    def _count(
        self, tokens: np.ndarray, start: int, bounds: np.ndarray, text: bytes, statement: Statement, shard: str
    ) -> None:
        found = self.found.setdefault(statement.kind, FoundStatements())
        if not statement.true:
            found.false += 1
            return
        found.true += 1
        first = int(np.searchsorted(bounds, statement.answer, side="right")) - 1
        last = int(np.searchsorted(bounds, statement.end, side="left"))
        lead = text[int(bounds[first]) : statement.answer]
        if (lead and not lead.isspace()) or bounds[last] != statement.end:
            found.unaligned += 1
            return
        opening = start + int(np.searchsorted(bounds, statement.start, side="right")) - 1
        begin = self._context_start(tokens, start + first, opening)
        answer, context = tokens[start + first : start + last], tokens[begin : start + first]
        words = text[statement.start : statement.end].decode(errors="replace")
        item = ReferenceItem(tuple(context.tolist()), tuple(answer.tolist()), words, shard, start + first)
        found.items.append(item)
        if len(found.items) > 4 * self.most:
            found.items = chosen(found.items, self.most)

    def _context_start(self, tokens: np.ndarray, answer: int, opening: int) -> int:
        """Where the context begins: the document, or so many tokens before the answer, but never inside a statement."""
        begin = max(0, min(answer - self.context, opening))
        ends = np.flatnonzero(tokens[begin:answer] == self.eos_id)
        return begin + int(ends[-1]) + 1 if len(ends) else begin
