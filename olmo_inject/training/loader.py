"""The training data loader: positions in ai2-olmo's order, one batch of a rank per item."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from olmo.config import TrainConfig
from olmo.data import IterableDataset
from olmo.exceptions import OLMoThreadError
from olmo.util import roundrobin, threaded_generator
from torch.utils.data import DataLoader, get_worker_info

from olmo_inject.corpus.injected import InjectedCorpus
from olmo_inject.errors import FoundByOneRank, UserError, in_one_line
from olmo_inject.utils.worker_processes import end_with_parent

READ_AHEAD_THREADS = 4  # used if there are no worker processes, as in ai2-olmo


class PositionStream(IterableDataset):
    """Positions in order, sliced over ranks, workers and resumes exactly as ai2-olmo slices its indices.

    Three things differ from ai2-olmo. Positions are computed, not listed (51.2M of them would take 205 MB in every
    worker). An item is a rank's whole batch, which saves work per row. Its `input_ids` keep the dtype of the shards,
    since handing int64 from a worker to the trainer costs more than all of the reading; the trainer widens them.

    Args:
        corpus: the rows.
        global_batch_size: rows in a batch of all ranks.
        rank: of this process.
        world_size: number of ranks.
        start_index: first position to read.
        threads: number of threads that read ahead if there are no worker processes.
    """

    def __init__(
        self,
        corpus: InjectedCorpus,
        global_batch_size: int,
        *,
        rank: int,
        world_size: int,
        start_index: int = 0,
        threads: int = READ_AHEAD_THREADS,
    ) -> None:
        super().__init__(
            corpus,  # pyright: ignore[reportArgumentType]
            global_batch_size,
            shuffle=False,
            drop_last=True,
            rank=rank,
            world_size=world_size,
            fs_local_rank=0,
            start_index=start_index,
            num_threads=threads,
        )
        self.corpus = corpus
        self.global_batch_size = global_batch_size

    def positions(self, step: int) -> Int64[np.ndarray, " b"]:
        """This rank's positions of `step`."""
        within = np.arange(self.rank, self.global_batch_size, self.world_size)
        return step * self.global_batch_size + within

    def batch(self, step: int) -> dict[str, Any]:
        """This rank's batch of `step`: ai2-olmo's keys, with `index` holding positions, and `input_ids` narrow."""
        positions = self.positions(step)
        try:
            batch: dict[str, Any] = self.corpus.narrow_rows(positions)
        except UserError as error:  # it concerns this rank's rows only
            raise FoundByOneRank(str(error)) from error
        batch["index"] = torch.from_numpy(positions)
        if "doc_lens" in batch:
            batch["max_doc_lens"] = batch["doc_lens"].amax(dim=1).tolist()
        return batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches from `start_index` on, this worker's share of them."""
        first, beyond = self.start_index // self.global_batch_size, self.total_size // self.global_batch_size
        steps: Sequence[int] = range(first, beyond)
        if (worker := get_worker_info()) is not None:
            return map(self.batch, steps[worker.id :: worker.num_workers])
        if not self.num_threads:
            return map(self.batch, steps)
        return self._read_ahead(steps, self.num_threads)

    def _read_ahead(self, steps: Sequence[int], threads: int) -> Iterator[dict[str, Any]]:
        streams: list[Iterable[dict[str, Any]]] = [
            threaded_generator(map(self.batch, steps[i::threads]), maxsize=1, thread_name=f"data thread {i}")
            for i in range(threads)
        ]
        try:
            yield from roundrobin(*streams)
        except OLMoThreadError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise


def build_loader(corpus: InjectedCorpus, cfg: TrainConfig, rank: int, world_size: int) -> DataLoader[dict[str, Any]]:
    """The training loader of one rank. On a resume ai2-olmo's trainer sets `dataset.start_index`.

    Args:
        corpus: the rows.
        cfg: supplies the global batch size and the settings of workers.
        rank: of this process.
        world_size: number of ranks.
    """
    workers = cfg.data.num_workers
    return DataLoader(
        PositionStream(corpus, cfg.global_train_batch_size, rank=rank, world_size=world_size),
        batch_size=None,  # an item is a batch already
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=cfg.data.pin_memory,
        prefetch_factor=cfg.data.prefetch_factor if workers else None,
        persistent_workers=cfg.data.persistent_workers and workers > 0,
        timeout=cfg.data.timeout if workers else 0,
        worker_init_fn=_begin_worker,
        # Its iterators draw a number. From torch's global state it would shift what a resume has restored.
        generator=torch.Generator(),
    )


_TOO_LITTLE = "is there too little memory for train.data.num_workers?"


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Turn the errors about a dead loader worker into a message for the user: torch's, or of its broken connection.

    Raises:
        FoundByOneRank: a worker was killed or failed.
    """
    try:
        yield
    except RuntimeError as error:
        message = in_one_line(error)
        if not message.startswith("DataLoader worker"):
            raise
        raise FoundByOneRank(f"{message.rstrip('.')}: {_TOO_LITTLE}") from None
    except (ConnectionError, EOFError) as error:  # it died while it handed over a batch
        raise FoundByOneRank(f"DataLoader worker died ({in_one_line(error)}): {_TOO_LITTLE}") from None


@atexit.register
def _kill_workers() -> None:
    """End what an error while training leaves: they ignore Python's SIGTERM, and it would wait for them for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _begin_worker(worker: int) -> None:
    """Set up a new worker: it ignores stop signals, and exits if it cannot hand over a batch."""
    del worker
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    # Python would print an error and drop the batch, and the rank would wait for it for ever.
    Queue._on_queue_feeder_error = staticmethod(_end_without_its_batch)  # type: ignore[attr-defined]


def _end_without_its_batch(error: Exception, batch: object) -> None:
    del batch
    print(f"olmo-inject: a loader worker cannot hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _as_it_is(batch: Any) -> Any:
    return batch
