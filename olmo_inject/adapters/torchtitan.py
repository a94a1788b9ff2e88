"""A data source for torchtitan, written against the source of 0.2.2 and 0.3.0 and not trained with.

torchtitan 0.3 builds its loader from a configuration:

    class InjectedLoader(TitanDataLoader, BaseDataLoader):  # of torchtitan.components.dataloader
        @dataclass(kw_only=True, slots=True)
        class Config(BaseDataLoader.Config):
            experiment: str = "my.yaml"

        def __init__(self, config, *, dp_rank, dp_world_size, seq_len, local_batch_size, **kwargs):
            super().__init__(InjectedRun.open(config.experiment), dp_rank, dp_world_size, local_batch_size, seq_len)

Set `dataloader=InjectedLoader.Config()` in your `Trainer.Config`. torchtitan 0.2 takes a function, the `TrainSpec`'s
`build_dataloader_fn`:

    def build_dataloader(dp_world_size, dp_rank, tokenizer, job_config):
        run, sizes = InjectedRun.open("my.yaml"), job_config.training
        return TitanDataLoader(run, dp_rank, dp_world_size, sizes.local_batch_size, sizes.seq_len)

Set `training.global_batch_size` to the experiment's `batch_size`: torchtitan does not tell it to a loader, so another
one is not noticed. The data source only injects. Measurements and evidence need a loop that calls a `Recorder`, and
torchtitan's does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from olmo_inject.adapters.run import InjectedRun, RankBatches
from olmo_inject.errors import UserError
from olmo_inject.training.loss import IGNORED
from olmo_inject.utils.number_ranges import check_ranks_share


class TitanDataLoader:
    """Yields `({"input": tokens [b, T]}, labels [b, T])` with shifted labels. It is Stateful, as torchtitan requires.

    Args:
        run: supplies corpus and plan.
        dp_rank: data-parallel rank of this process.
        dp_world_size: number of data-parallel ranks.
        local_batch_size: rows in one batch of one rank; gradient accumulation uses several batches per step.
        seq_len: torchtitan's tokens per row.

    Raises:
        UserError: the ranks' batches do not fill a step evenly, or the experiment has rows of another length.
    """

    def __init__(self, run: InjectedRun, dp_rank: int, dp_world_size: int, local_batch_size: int, seq_len: int) -> None:
        check_ranks_share(run.plan.batch_size, dp_world_size, "batch_size")
        self.share = run.plan.batch_size // dp_world_size  # rows of a rank in a step
        if self.share % local_batch_size:
            raise UserError(
                f"local_batch_size: {local_batch_size} does not divide a rank's {self.share} rows of a step"
            )
        if seq_len != run.experiment.sequence_length:
            raise UserError(f"sequence_length: {run.experiment.sequence_length}, but torchtitan's seq_len is {seq_len}")
        self.run, self.local_batch_size = run, local_batch_size
        self.dp_rank, self.dp_world_size = dp_rank, dp_world_size
        self.rows_read = 0

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        first, done = divmod(self.rows_read, self.share)
        for positions in RankBatches(self.run, self.dp_rank, self.dp_world_size, first):
            for start in range(done, self.share, self.local_batch_size):
                batch = self.run.dataset.batch(positions[start : start + self.local_batch_size])
                self.rows_read += self.local_batch_size
                yield {"input": batch["input_ids"]}, F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
            done = 0

    def state_dict(self) -> dict[str, Any]:
        """The number of rows that all ranks have read: the same on every rank, and for any number of ranks."""
        return {"rows_read": self.rows_read * self.dp_world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state. A state without rows is that of a new run.

        Raises:
            UserError: the state was saved within a step, and another number of ranks cannot continue there.
        """
        rows = int(state_dict.get("rows_read", 0))
        if rows % (self.dp_world_size * self.local_batch_size):
            raise UserError(
                f"{rows} rows were read, which {self.dp_world_size} ranks do not share evenly: resume at a step"
            )
        self.rows_read = rows // self.dp_world_size
