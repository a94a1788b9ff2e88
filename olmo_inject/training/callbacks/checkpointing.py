"""Decide when a checkpoint is written."""

from __future__ import annotations

import torch.distributed as dist

from olmo_inject.config import CheckpointConfig
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.checkpoints import on_disk
from olmo_inject.training.trainer import InjectionTrainer


class Checkpointing(Callback):
    """Saves every `interval` steps, at the configured extra steps, at the last step and when the run stops.

    Args:
        config: extra steps to save at.
        interval: steps between checkpoints; None: only the extra steps and the end.
        keep: number of full checkpoints to keep; -1 keeps all.
        last_step: number of steps of the run.
    """

    def __init__(self, config: CheckpointConfig, interval: int | None, keep: int, last_step: int) -> None:
        self.config = config
        self.interval = interval
        self.keep = keep
        self.last_step = last_step

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Save the initial weights if they are configured."""
        if not trainer.resumed and trainer.global_step in self.config.also:
            trainer.save(weights_only=self.config.weights_only)

    def after_step(self, trainer: InjectionTrainer, step: int, sums: object) -> None:
        """Save if due, then remove the oldest checkpoints beyond the number to keep."""
        completed = step + 1
        regular = self.interval is not None and completed % self.interval == 0
        if regular or completed == self.last_step or trainer.stopping:
            trainer.save()
            if self.keep > 0 and dist.get_rank() == 0:
                on_disk.prune(trainer.run_folder, self.keep, listed=self.config.also)
        elif completed in self.config.also:
            trainer.save(weights_only=self.config.weights_only)
