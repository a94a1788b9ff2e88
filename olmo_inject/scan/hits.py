"""Where one task's tokens occur in a corpus: exact counts, and the first places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from olmo_inject.scan.chunks import Stretch
from olmo_inject.scan.instances import InstanceIndex
from olmo_inject.tasks import INSTANCE_TOKENS

LOCATIONS = 1000  # maximum places kept of each kind; counts are exact beyond that


class Place(NamedTuple):
    """The place of a hit: number of the shard, index of its first token there, its tokens."""

    shard: int
    offset: int
    tokens: tuple[int, ...]


@dataclass
class TaskHits:
    """The tokens of one task in a corpus.

    Attributes:
        instances: number of places with the three tokens of an instance in a row.
        pairs: number of places with TOK1 and TOK2 of an instance in a row; instances are included.
        tokens: how often each of the task's tokens occurs, in ascending order of ids.
        instance_places: the first `LOCATIONS` places of instances.
        pair_places: the first `LOCATIONS` places of pairs.
        each: how often each instance occurs, by its number in `InstanceIndex.instances`; None if not counted.
    """

    instances: int
    pairs: int
    tokens: Int64[np.ndarray, " t"]
    instance_places: list[Place] = field(default_factory=list)
    pair_places: list[Place] = field(default_factory=list)
    each: Int64[np.ndarray, " i"] | None = None

    def record(self) -> dict[str, Any]:
        """As JSON. Of `each`, what is not zero."""
        each = None
        if self.each is not None:
            counted = np.flatnonzero(self.each)
            each = {"length": len(self.each), "instances": counted.tolist(), "counts": self.each[counted].tolist()}
        return vars(self) | {"tokens": self.tokens.tolist(), "each": each}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TaskHits:
        """What `record` gave, also through JSON."""
        fields = {**record, "tokens": np.array(record["tokens"], np.int64)}
        for name in ("instance_places", "pair_places"):
            fields[name] = [Place(shard, offset, tuple(tokens)) for shard, offset, tokens in record[name]]
        if (each := record["each"]) is not None:
            fields["each"] = np.zeros(each["length"], np.int64)
            fields["each"][np.array(each["instances"], np.int64)] = each["counts"]
        return cls(**fields)

    def add(self, other: TaskHits) -> None:
        """Add the hits of a later part of the corpus."""
        self.instances += other.instances
        self.pairs += other.pairs
        self.tokens = self.tokens + other.tokens
        if self.each is not None and other.each is not None:
            self.each += other.each
        self.instance_places = (self.instance_places + other.instance_places)[:LOCATIONS]
        self.pair_places = (self.pair_places + other.pair_places)[:LOCATIONS]


def no_hits(index: InstanceIndex, each: bool = False) -> TaskHits:
    """An empty result. With `each`, each instance is counted by itself and no places are kept."""
    hits = TaskHits(0, 0, np.zeros(len(index.tokens), np.int64))
    if each:
        hits.each = np.zeros(len(index.instances), np.int64)
    return hits


def add_hits(
    stretch: Stretch, places: Int64[np.ndarray, " n"], shard: int, index: InstanceIndex, hits: TaskHits
) -> None:
    """Add the hits at `places`.

    Args:
        stretch: of the shard.
        places: indices of tokens, each of which is TOK1 of some instance and is followed by TOK2 of some instance.
        shard: number of the shard.
        index: of the task.
        hits: to add to.
    """
    pairs, instances = index.find(stretch.tokens, places)
    instances = instances[stretch.whole(instances, INSTANCE_TOKENS)]
    hits.pairs += len(pairs)
    hits.instances += len(instances)
    if hits.each is not None:
        np.add.at(hits.each, index.numbers(stretch.tokens, instances), 1)
        return
    for begins, length, kept in ((pairs, 2, hits.pair_places), (instances, INSTANCE_TOKENS, hits.instance_places)):
        room = LOCATIONS - len(kept)
        kept += [
            Place(shard, stretch.base + place, tuple(stretch.tokens[place : place + length].tolist()))
            for place in begins[:room].tolist()
        ]
