"""What was found of one task: exact counts, and the first places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from olmo_inject.scan.chunks import Stretch
from olmo_inject.scan.instances import InstanceIndex
from olmo_inject.tasks import INSTANCE_TOKENS

LOCATIONS = 1000  # of each kind that are told; counts are exact beyond them


class Place(NamedTuple):
    """Where a hit is: number of the shard, index of its first token there, its tokens."""

    shard: int
    offset: int
    tokens: tuple[int, ...]


@dataclass
class TaskHits:
    """What a corpus holds of one task.

    Attributes:
        instances: places where all three tokens of an instance stand in a row.
        pairs: places where TOK1 and TOK2 of an instance do; every one of `instances` is one.
        tokens: how often each of the task's tokens occurs, in ascending order of their ids.
        instance_places: the first `LOCATIONS` of them.
        pair_places: likewise.
        each: how often each instance occurs, by its number in `InstanceIndex.instances`, where that is asked for.
    """

    instances: int
    pairs: int
    tokens: Int64[np.ndarray, " t"]
    instance_places: list[Place] = field(default_factory=list)
    pair_places: list[Place] = field(default_factory=list)
    each: Int64[np.ndarray, " i"] | None = None

    def add(self, other: TaskHits) -> None:
        """Count a later part of the corpus."""
        self.instances += other.instances
        self.pairs += other.pairs
        self.tokens = self.tokens + other.tokens
        if self.each is not None and other.each is not None:
            self.each += other.each
        self.instance_places = (self.instance_places + other.instance_places)[:LOCATIONS]
        self.pair_places = (self.pair_places + other.pair_places)[:LOCATIONS]


def no_hits(needle: InstanceIndex, each: bool = False) -> TaskHits:
    """Nothing found yet; `each`: instances are to be counted one by one, and no places kept."""
    hits = TaskHits(0, 0, np.zeros(len(needle.tokens), np.int64))
    if each:
        hits.each = np.zeros(len(needle.instances), np.int64)
    return hits


def add_hits(
    stretch: Stretch, places: Int64[np.ndarray, " n"], shard: int, needle: InstanceIndex, hit: TaskHits
) -> None:
    """Add those of `places`, indices of pairs that may be a task's, that are."""
    pairs, instances = needle.found(stretch.tokens, places)
    instances = instances[stretch.whole(instances, INSTANCE_TOKENS)]
    hit.pairs += len(pairs)
    hit.instances += len(instances)
    if hit.each is not None:
        np.add.at(hit.each, needle.numbers(stretch.tokens, instances), 1)
        return  # then nobody asks where
    for begins, length, known in ((pairs, 2, hit.pair_places), (instances, INSTANCE_TOKENS, hit.instance_places)):
        room = LOCATIONS - len(known)
        known += [
            Place(shard, stretch.base + place, tuple(stretch.tokens[place : place + length].tolist()))
            for place in begins[:room].tolist()
        ]
