"""A data source for torchtitan, written against its source (2025: `components/dataloader.py`) and not run with it.

    def build_dataloader(dp_world_size, dp_rank, tokenizer, job_config, infinite=True):
        run = InjectedRun.open("my.yaml")
        return TitanDataLoader(run, dp_rank, dp_world_size, job_config.training.local_batch_size)

Give it to the `TrainSpec` as `build_dataloader_fn`. It only injects. Measurements and evidence need a loop that calls a
`Recorder`, and torchtitan's does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from olmo_inject.adapters.run import InjectedRun, RankBatches
from olmo_inject.errors import UserError
from olmo_inject.number_ranges import check_ranks_share
from olmo_inject.training.loss import IGNORED


class TitanDataLoader:
    """Yields `({"input": tokens [b, T]}, labels [b, T])` with shifted labels. It is Stateful, as torchtitan requires.

    Args:
        run: supplies corpus and plan; its `sequence_length` is torchtitan's `seq_len`.
        dp_rank: data-parallel rank of this process.
        dp_world_size: number of data-parallel ranks.
        local_batch_size: rows in one batch of one rank; gradient accumulation uses several batches per step.

    Raises:
        UserError: the ranks' batches do not fill a step evenly.
    """

    def __init__(self, run: InjectedRun, dp_rank: int, dp_world_size: int, local_batch_size: int) -> None:
        check_ranks_share(run.plan.batch_size, dp_world_size, "batch_size")
        share = run.plan.batch_size // dp_world_size
        if share % local_batch_size:
            raise UserError(f"local_batch_size: {local_batch_size} does not divide a rank's {share} rows of a step")
        self.run, self.local_batch_size = run, local_batch_size
        self.dp_rank, self.dp_world_size = dp_rank, dp_world_size
        self.rows_read = 0

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        share = self.run.plan.batch_size // self.dp_world_size
        first, done = divmod(self.rows_read, share)
        for positions in RankBatches(self.run, self.dp_rank, self.dp_world_size, first):
            for start in range(done, share, self.local_batch_size):
                batch = self.run.dataset.batch(positions[start : start + self.local_batch_size])
                self.rows_read += self.local_batch_size
                yield {"input": batch["input_ids"]}, F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
            done = 0

    def state_dict(self) -> dict[str, Any]:
        """The number of rows that this rank has read, which is the same on every rank."""
        return {"rows_read": self.rows_read}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state. A state without rows is that of a new run."""
        self.rows_read = int(state_dict.get("rows_read", 0))
