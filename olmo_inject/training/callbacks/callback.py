"""The hooks of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

Sums = Mapping[str, float | int]


class Callback:
    """Base class of callbacks. Each hook does nothing by default.

    All ranks call all hooks in the same order, so a hook may communicate. In every hook, `trainer` is the trainer,
    `step` the plan step (from 0), `batch` this rank's batch, and `sums` the step's sums over all ranks by name.
    """

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """The model is built and restored; this process has not trained a step yet."""

    def before_step(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any]) -> None:
        """This rank's batch has arrived. It is still on the CPU, its `input_ids` in the dtype of the shards."""

    def on_forward(
        self,
        trainer: InjectionTrainer,
        micro_batch: dict[str, Any],
        labels: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """A training micro-batch went through the model. Called under `no_grad`.

        Args:
            trainer: the trainer.
            micro_batch: on the device.
            labels: the targets that reached the loss, [b, T - 1]; -100 where masked.
            logits: [b, T, V].
        """

    def before_update(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any], sums: Sums) -> None:
        """Gradients are complete and the step's sums are reduced over ranks. The weights have not changed yet."""

    def after_step(self, trainer: InjectionTrainer, step: int, sums: Sums) -> None:
        """The update is done: the weights are those before step + 1."""

    def before_checkpoint(self, trainer: InjectionTrainer) -> None:
        """A checkpoint is about to be written. Flush every log to disk first."""

    def on_close(self, trainer: InjectionTrainer) -> None:
        """The run ends, normally or with an error."""
