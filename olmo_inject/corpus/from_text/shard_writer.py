"""Write shards piece by piece, with provenance and checksums, and a marker for each complete shard.

A shard counts only if its marker exists. What a killed process leaves without a marker is written again, with the same
bytes.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.corpus.folder import BUILDING
from olmo_inject.corpus.from_text.documents import Document
from olmo_inject.corpus.provenance import Origin, ProvenanceWriter, provenance_path
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, write_json

WORK = BUILDING  # folder of markers and unfinished shards, in the corpus folder


def shard_name(job: int, number: int) -> str:
    """The file name of a job's shard; names sort in the order of the corpus."""
    return f"part-{job:05d}-{number:03d}.npy"


def finished_shards(folder: Path, job: int) -> list[dict[str, Any]]:
    """The markers of a job's finished shards, in order."""
    markers: list[dict[str, Any]] = []
    while (path := folder / WORK / f"{shard_name(job, len(markers))}.json").is_file():
        markers.append(read_json(path))
    return markers


class ShardWriter:
    """Writes the shards of one job, one after another.

    Args:
        folder: of the corpus.
        job: number of the job.
        number: of its first missing shard.
        dtype: of an id.
        most: maximum tokens of a shard; only a longer document makes a longer shard.
    """

    def __init__(self, folder: Path, job: int, number: int, dtype: np.dtype, most: int) -> None:
        self.folder = folder
        self.job = job
        self.number = number
        self.dtype = dtype
        self.most = most
        self.tokens = 0  # number of tokens in the current shard
        self.documents = 0
        self._open = False

    def add(self, ids: np.ndarray, ends: Sequence[int], documents: Sequence[Document], read: int) -> None:
        """Append documents, each with its EOS.

        Args:
            ids: of all documents, one after another.
            ends: the end of each document in `ids`.
            documents: as many as `ends`.
            read: number of documents that the job read before these.
        """
        done = begin = 0
        while done < len(documents):
            fit = bisect_right(ends, begin + self.most - self.tokens)
            if fit <= done and self.documents:
                self.finish(read + done)
                continue
            fit = max(fit, done + 1)
            self._append(ids[begin : ends[fit - 1]], [begin, *ends[done:fit]], documents[done:fit])
            done, begin = fit, ends[fit - 1]

    def _append(self, ids: np.ndarray, bounds: Sequence[int], documents: Sequence[Document]) -> None:
        if not self._open:
            self._begin()
        data = ids.tobytes()
        shift = self.tokens - bounds[0]
        try:
            self._file.write(data)
            for start, end, document in zip(bounds, bounds[1:], documents, strict=False):
                self._origins.add(Origin(start + shift, end + shift, document.id, document.source, document.line))
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error
        self._hash.update(data)
        self.tokens += len(ids)
        self.documents += len(documents)

    def finish(self, read: int) -> None:
        """Complete the current shard, if there is one; the next shard begins after `read` documents."""
        if not self._open:
            return
        try:
            self._origins.__exit__(None, None, None)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            origins = provenance_path(self._path)
            for path in (self._path, origins):
                self._temporary(path).replace(path)
            self._open = False
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error
        marker = {
            "path": self._path.name,
            "tokens": self.tokens,
            "sha256": self._hash.hexdigest(),
            "documents": self.documents,
            "provenance_sha256": hashlib.sha256(origins.read_bytes()).hexdigest(),
            "read": read,
        }
        write_json(self.folder / WORK / f"{self._path.name}.json", marker)
        self.number += 1
        self.tokens = self.documents = 0

    def close(self) -> None:
        """Give up a shard that is not finished; a later build writes it anew."""
        if self._open:
            self._open = False
            with suppress(OSError):  # the disk may be full
                self._origins.__exit__(None, None, None)
            with suppress(OSError):
                self._file.close()
            for path in (self._path, provenance_path(self._path)):
                self._temporary(path).unlink(missing_ok=True)

    def _begin(self) -> None:
        self._path = self.folder / shard_name(self.job, self.number)
        self._hash = hashlib.sha256()
        try:
            self._file = self._temporary(self._path).open("wb")
            self._origins = ProvenanceWriter(self._temporary(provenance_path(self._path)))
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error
        self._open = True

    def _temporary(self, path: Path) -> Path:
        # The name contains the process id, since a process left over from a killed build may still be writing.
        return self.folder / WORK / f"{path.name}.{os.getpid()}.tmp"
