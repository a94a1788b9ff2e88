"""Find natural statements in the tokens of a shard. Text is decoded only around places that pass the prefilter."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from olmo_inject.corpus.references import ReferenceItem, chosen
from olmo_inject.scan.chunks import Stretch
from olmo_inject.scan.prefilter import Prefilter
from olmo_inject.scan.statements import REACH_LEFT, REACH_RIGHT, Statement, statements

SLACK = 8  # bytes of the longest operator, and so its maximum tokens; the anchor may not be its first token
AROUND = REACH_RIGHT + 2 * SLACK + 1  # tokens around a place that can decide whether it is a statement


@dataclass
class FoundStatements:
    """Statements of one kind that were found.

    Attributes:
        true: number of true statements.
        false: number of false statements.
        unaligned: number of true statements that cannot be scored, since their answer is not whole tokens.
        items: true statements to evaluate on, at most as many as asked for.
    """

    true: int = 0
    false: int = 0
    unaligned: int = 0
    items: list[ReferenceItem] = field(default_factory=list)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> FoundStatements:
        """What `dataclasses.asdict` gave, also through JSON."""
        fields = {**record}
        fields["items"] = [
            ReferenceItem(**item | {name: tuple(item[name]) for name in ("context", "answer")})
            for item in record["items"]
        ]
        return cls(**fields)

    def add(self, other: FoundStatements, most: int) -> None:
        """Add the statements of another part of the corpus, keeping at most `most` items."""
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
        token_bytes: UTF-8 bytes of every id.
        eos_id: separates documents; no statement crosses it.
        context: number of tokens kept before an answer; fewer at the beginning of a document.
        most: maximum items kept of each kind.
        found: statements found so far, by kind.
    """

    prefilter: Prefilter
    token_bytes: Sequence[bytes]
    eos_id: int
    context: int
    most: int
    statements: dict[str, FoundStatements] = field(default_factory=dict)

    @property
    def around(self) -> int:
        """Tokens around a place that are needed to recognize a statement and to keep it."""
        return max(AROUND, self.context)

    def look(self, stretch: Stretch, places: Int64[np.ndarray, " n"], begin: int, end: int, shard: str) -> None:
        """Count the statements whose operator begins in tokens `begin` to `end`.

        Args:
            stretch: of the shard.
            places: indices of anchor tokens (see `Prefilter`).
            begin: first token.
            end: first token after the last.
            shard: name of the shard.
        """
        seen: set[tuple[int, int]] = set()
        for place in self.prefilter.survivors(stretch.tokens, places).tolist():
            window = self._window(stretch, place)
            token = place - window.start
            for statement in statements(window.text, window.bounds[token], window.bounds[token + 1]):
                inside = bisect_right(window.bounds, statement.operator) - 1
                where = (window.start + inside, statement.operator - window.bounds[inside])
                if begin <= where[0] < end and where not in seen:  # one operator may contain two anchors
                    seen.add(where)
                    self._count(stretch, window, statement, shard)

    def _window(self, stretch: Stretch, place: int) -> _Window:
        """The part of the document that a statement at `place` can depend on; each token has at least one byte."""
        first, beyond = stretch.bounds(place)
        start = max(first, place - REACH_LEFT - SLACK)
        ids = stretch.tokens[start : min(beyond, place + REACH_RIGHT + SLACK + 1)].tolist()
        token = place - start
        if self.eos_id in ids:
            before = next((i + 1 for i in range(token - 1, -1, -1) if ids[i] == self.eos_id), 0)
            after = next((i for i in range(token + 1, len(ids)) if ids[i] == self.eos_id), len(ids))
            start, ids = start + before, ids[before:after]
        parts = [self.token_bytes[i] for i in ids]
        return _Window(start, list(accumulate(map(len, parts), initial=0)), b"".join(parts))

    def _count(self, stretch: Stretch, window: _Window, statement: Statement, shard: str) -> None:
        of_kind = self.statements.setdefault(statement.kind, FoundStatements())
        if not statement.true:
            of_kind.false += 1
            return
        of_kind.true += 1
        bounds, text = window.bounds, window.text
        first = bisect_right(bounds, statement.answer) - 1
        last = bisect_left(bounds, statement.end)
        lead = text[bounds[first] : statement.answer]
        if (lead and not lead.isspace()) or bounds[last] != statement.end:
            of_kind.unaligned += 1
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
        of_kind.items.append(item)
        if len(of_kind.items) > 4 * self.most:
            of_kind.items = chosen(of_kind.items, self.most)

    def _context(self, stretch: Stretch, answer: int, opening: int) -> list[int]:
        """The last `self.context` tokens of the document before the answer, and at least the whole statement."""
        first, _ = stretch.bounds(answer)
        ids = stretch.tokens[max(first, min(answer - self.context, opening)) : answer].tolist()
        while self.eos_id in ids:
            ids = ids[ids.index(self.eos_id) + 1 :]
        return ids
