"""Pieces of the corpus itself, injected beside where they stand: duplication (Hernandez et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.tasks.material import Material, TaskInputs, continuation_probe
from olmo_inject.tasks.registry import register

READ_AT_ONCE = 256  # rows


@register("copies")
@dataclass(frozen=True)
class Copies:
    """Beginnings of documents, or of rows, of random rows of the corpus, at most one of each row.

    The train half is injected, so a model sees it that much more often than the corpus holds it; the test half it sees
    as the corpus holds it. A model is asked for what follows the first `context` tokens, as of `texts`. The id of each
    says where it stands: SEQUENCE+TOKEN.

    Attributes:
        count: how many.
        of: `documents`, which begin inside a row, after an end of document; or `rows`.
        tokens: of each, at most; a document may end before.
        context: tokens that a model is given; documents that are no longer than that are passed over.
        groups: names of groups, which the copies join in turn; empty for none.
    """

    count: int = 100
    of: Literal["documents", "rows"] = "documents"
    tokens: int = 32
    context: int = 8
    groups: list[str] = field(default_factory=list)
    default_fraction: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        if self.count < 1 or self.context < 1:
            raise ValueError(f"count and context must be at least 1, got {self.count} and {self.context}")
        if self.tokens <= self.context:
            raise ValueError(f"tokens must be more than context, got {self.tokens} and {self.context}")

    def material(self, inputs: TaskInputs) -> Material:
        """The copies, in the random order in which their rows are looked at."""
        rows, key = inputs.host(), inputs.key("copies")
        instances, ids = [], []
        for first in range(0, len(rows), READ_AT_ONCE):
            places = np.arange(first, min(first + READ_AT_ONCE, len(rows)))
            sequences = randomness.permuted(key, len(rows), places)
            for sequence, row in zip(sequences.tolist(), rows.read(sequences), strict=True):
                start, copied = self._begins(row, inputs.vocabulary.eos_id)
                if len(copied) > self.context and len(instances) < self.count:
                    instances.append(tuple(copied.tolist()))
                    ids.append(f"{sequence}+{start}")
            if len(instances) == self.count:
                break
        else:
            raise UserError(
                f"{inputs.where}: {len(instances)} of {len(rows):,} rows hold {self.of} of more than {self.context} "
                f"tokens, count asks for {self.count}"
            )
        probes = [continuation_probe(number, tokens, self.context) for number, tokens in enumerate(instances)]
        groups = tuple(self.groups[i % len(self.groups)] for i in range(self.count)) if self.groups else ()
        return Material(instances, ids=tuple(ids), groups=groups, probes=tuple(probes))

    def _begins(self, row: UInt[np.ndarray, " t"], eos_id: int) -> tuple[int, UInt[np.ndarray, " n"]]:
        """Where the first piece of a row that is long enough begins, and its tokens; an empty one if there is none."""
        if self.of == "rows":
            return 0, row[: self.tokens]
        ends = np.flatnonzero(row == eos_id)
        starts, stops = ends + 1, np.append(ends[1:], len(row))
        long_enough = np.flatnonzero(stops - starts > self.context)
        if not len(long_enough):
            return 0, row[:0]
        start, stop = int(starts[long_enough[0]]), int(stops[long_enough[0]])
        return start, row[start : min(stop, start + self.tokens)]
