"""Staging: copy the sequences of some steps out of a corpus, in training order.

The sequences of a step are scattered over all shards. A shard with few needed sequences is read by ranges; a shard with
many is streamed once (`layout`). A stage that fits in memory is assembled there and written once. For a larger stage,
streamed sequences are spilled to disk in runs, sorted by their place in the stage (`spill_runs`). Each file of the
stage is then assembled in memory from slices of the runs and from ranges, and written at once (`planned_files`). So
every disk access is long, and memory is bounded. Start at `stager.open_stager`.
"""

from olmo_inject.corpus.staging.request import Staged, check_extent
from olmo_inject.corpus.staging.stager import FILE_BYTES, MEMORY_BYTES, Stager, open_stager

__all__ = ["FILE_BYTES", "MEMORY_BYTES", "Staged", "Stager", "check_extent", "open_stager"]
