"""Remote shards, read by sequences like local ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from olmo_inject.corpus.cache import BlockCache, cache_folder
from olmo_inject.corpus.not_token_ids import check_tokens
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source

SAMPLE = 16  # sequences that `check_sample` reads, one request each


class RemoteShards(TokenShards):
    """Shards of a remote source. A sequence is one byte range; a bounded cache on the local disk keeps it.

    Args:
        source: of the shards.
        names: of the shards in order, relative to the source's root.
        sizes: bytes of each shard, from the manifest.
        sequence_length: as in `TokenShards`.
        dtype: as in `TokenShards`.
        vocab_size: as in `TokenShards`.

    Raises:
        UserError: as in `TokenShards`; when reading, also a shard that has changed or cannot be fetched.
    """

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        sizes: Sequence[int],
        sequence_length: int,
        dtype: str = "uint16",
        vocab_size: int | None = None,
    ) -> None:
        self._source = source
        self._sums = None
        self._describe(names, sequence_length, dtype, vocab_size)
        self._lay_out(sizes)
        self._cache = BlockCache(cache_folder() / "blocks")
        self._prefix = self.identity()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        vocabulary = self.vocab_size
        return RemoteShards, (self._source, self.names, self.sizes, self.sequence_length, self.dtype.name, vocabulary)

    @property
    def source(self) -> Source:
        """As `TokenShards.source`."""
        return self._source

    def check_sample(self, n: int = SAMPLE) -> None:
        """As `TokenShards.check_sample`, with fewer sequences."""
        super().check_sample(n)

    def _fill(self, out: np.ndarray, shards: np.ndarray, starts: np.ndarray) -> None:
        def fetch(row: int) -> None:
            out[row] = np.frombuffer(self._block(int(shards[row]), int(starts[row])), self.dtype)

        with ThreadPoolExecutor(self._source.connections) as pool:
            for _ in pool.map(fetch, range(len(out))):
                pass

    def _block(self, shard: int, start: int) -> bytes:
        first = start * self.dtype.itemsize
        key = f"{self._prefix}/{shard}-{first}"
        block = self._cache.get(key)
        if block is None:
            block = self._source.read(self.names[shard], first, first + self.sequence_bytes, self.sizes[shard])
            check_tokens(self._source.where(self.names[shard]), block, self.dtype, is_start=first == 0)
            self._cache.put(key, block)
        return block
