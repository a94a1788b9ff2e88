"""Staging: the sequences of some steps copied out of a corpus in the order of training.

Sequences of a step lie scattered over all shards. A shard of which few are needed is read by ranges; one of which
many are needed is streamed once. A stage that fits the memory allowed is put together there, and written once. Of a
larger one what is streamed is written as runs, sorted by where they belong; then each part of the stage is put together
in memory from the runs' slices and the ranges, and written at once: every read and write of a disk is long, and memory
is bounded.
"""

from olmo_inject.corpus.staging.request import Staged, check_extent
from olmo_inject.corpus.staging.stager import MEMORY_BYTES, PART_BYTES, Stager, open_stager

__all__ = ["MEMORY_BYTES", "PART_BYTES", "Staged", "Stager", "check_extent", "open_stager"]
