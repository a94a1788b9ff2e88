"""ai2-olmo's trainer with hooks for callbacks. The loop, the loss and the update stay ai2-olmo's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from olmo.config import CheckpointType
from olmo.train import Trainer

from olmo_inject.randomness import key
from olmo_inject.runs.metrics import Metrics
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.checkpoints import on_disk, save_restore
from olmo_inject.training.compat import TrainerShims
from olmo_inject.training.loss import IGNORED, loss_in_parts
from olmo_inject.training.sums import StepSums

TOTAL_NORM = "total_grad_norm"  # ai2-olmo's name
GRADIENT_NORM = f"optim/{TOTAL_NORM}"
LOSS_IN_PARTS_ON = ("cuda",)  # a CPU keeps ai2-olmo's loss, whose sum has other last bits


@dataclass
class InjectionTrainer(TrainerShims, Trainer):
    """Trains on positions, calls the callbacks' hooks, and saves checkpoints named by plan step.

    ai2-olmo's `global_step` counts completed steps, so inside a step it is one ahead of the plan step.
    """

    metrics: Metrics = field(default_factory=lambda: Metrics(None))
    callbacks: list[Callback] = field(default_factory=list)
    should_stop: Callable[[], bool] = lambda: False
    """Called on every rank in every step; True on any rank stops the run after the step."""
    stopping: bool = False
    resumed: bool = False
    """Whether the run continues from a checkpoint of its own."""
    sums: StepSums = field(init=False)
    last_saved: on_disk.Checkpoint | None = None
    _batch: dict[str, Any] = field(init=False, default_factory=dict)
    _in_training: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device.type in LOSS_IN_PARTS_ON and not self.cfg.fused_loss:
            self.loss_fn = loss_in_parts  # pyright: ignore[reportAttributeAccessIssue]
        # ai2-olmo would fetch the norm of every gradient from the device, one after the other; none is used here.
        clip: Callable[..., dict[str, torch.Tensor]] = self.optim.clip_grads_and_collect_metrics
        self.optim.clip_grads_and_collect_metrics = lambda *given, **named: {  # type: ignore[method-assign]
            TOTAL_NORM: clip(*given, **named)[TOTAL_NORM]
        }
        self.sums = StepSums(self.device)
        self.sums.declare(reals=("loss", "targets"), integers=("stop",))

    @property
    def run_folder(self) -> Path:
        """Where checkpoints and logs go."""
        return Path(self.cfg.save_folder)

    def fit(self) -> None:
        """Call the callbacks' first hook, then train to the last step."""
        for callback in self.callbacks:
            callback.before_first_step(self)
        super().fit()

    def begin_at(self, step: int) -> None:
        """Set the next step, with the weights as they are."""
        self.global_step = step
        self.global_train_examples_seen_this_epoch = step * self.cfg.global_train_batch_size
        self.global_train_tokens_seen = self.global_train_examples_seen_this_epoch * self.cfg.model.max_sequence_length
        self.dataset.start_index = self.global_train_examples_seen_this_epoch

    def train_step(self, batch: dict[str, Any], reduce_global_loss: bool = True) -> dict[str, float]:
        """Train one step and call the hooks. `metrics` replaces ai2-olmo's console and W&B, so nothing is returned."""
        step = self.global_step - 1
        self._batch = batch
        # Dropout depends on nothing else, so a resume repeats it, and ranks differ.
        _seed_dropout(self.device, key("dropout", self.cfg.seed, step, dist.get_rank()) % 2**63)
        for callback in self.callbacks:
            callback.before_step(self, step, batch)
        norm = super().train_step(self.sent(batch), reduce_global_loss=False)[GRADIENT_NORM]  # before clipping
        self.metrics.log(step, {GRADIENT_NORM: norm, "optim/learning_rate": self.optim.param_groups[0]["lr"]})
        for callback in self.callbacks:
            callback.after_step(self, step, self._reduced)
        self.metrics.flush()
        return {}

    def sent(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on its way to the device, without the parts that ai2-olmo's step first reads on the host.

        Token ids travel in the shards' dtype and become int64 on the device.
        """
        on_host = {"index", "instance_mask"}
        moved = {
            key: value.to(self.device, non_blocking=True)
            if isinstance(value, torch.Tensor) and key not in on_host
            else value
            for key, value in batch.items()
        }
        return moved | {"input_ids": moved["input_ids"].long()}

    def train_batch(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Forward and backward of all micro-batches, then the reduction of the step's sums."""
        self._in_training = True
        try:
            losses = super().train_batch(batch)
        finally:
            self._in_training = False
        if self.should_stop():
            self.sums.add("stop", 1)
        self._reduced = self.sums.reduce()
        self.stopping = self.stopping or self._reduced["stop"] > 0
        for callback in self.callbacks:
            callback.before_update(self, self.global_step - 1, self._batch, self._reduced)
        return losses

    def model_forward(
        self, batch: dict[str, Any], loss_reduction: str = "mean", compute_z_loss: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """ai2-olmo's forward pass. In training, callbacks see its logits.

        Args:
            batch: a micro-batch on the device.
            loss_reduction: as in ai2-olmo: `mean`, `sum` or `none`.
            compute_z_loss: whether to return the z-loss too.

        Returns:
            The loss, the z-loss or None, and the logits.
        """
        ce_loss, z_loss, logits = super().model_forward(batch, loss_reduction, compute_z_loss)
        if self._in_training:
            with torch.no_grad():
                labels = self.get_labels(batch)
                self.sums.add("loss", ce_loss.detach())
                self.sums.add("targets", (labels != IGNORED).sum())
                for callback in self.callbacks:
                    callback.on_forward(self, batch, labels, logits.detach())
        return ce_loss, z_loss, logits

    def check_if_cancelled(self) -> tuple[bool, int]:
        """Whether to stop. All ranks know this from the step's reduction, so nothing is communicated."""
        return self.stopping, 0

    def save(self, *, weights_only: bool = False) -> on_disk.Checkpoint:
        """Write checkpoint `step{s}`, where s is the number of completed steps, unless it exists (collective)."""
        saved = self.last_saved
        if saved is not None and saved.step == self.global_step and (weights_only or not saved.weights_only):
            return saved
        for callback in self.callbacks:
            callback.before_checkpoint(self)
        self.metrics.flush(to_disk=True)
        if self.indices_file is not None:  # this replaces ai2-olmo's own saving, which would flush it
            self.indices_file.flush()
            os.fsync(self.indices_file.fileno())
        self.optim.zero_grad(set_to_none=True)
        self.last_saved = save_restore.save(
            self.run_folder,
            self.global_step,
            self.dist_model,
            self.optim,
            self.trainer_state_dict(),
            self.cfg,
            weights_only=weights_only,
            overwrite=True,  # a resumed run may reach a step again that it saved before it was killed
        )
        return self.last_saved

    def save_checkpoint(self, checkpoint_type: CheckpointType = CheckpointType.sharded) -> tuple[Path, Path | None]:
        """Save one checkpoint of ours. ai2-olmo's loop calls this at a cancellation and at the end."""
        del checkpoint_type
        return self.save().path, None

    def eval(self) -> dict[str, Any]:
        """Do nothing: evaluation is a callback with its own steps."""
        return {}

    def system_metrics(self) -> dict[str, float]:
        """Return nothing: ai2-olmo would query the GPU in every step for a console that is not shown."""
        return {}

    def close(self, exit_code: int = 0) -> None:
        """Close the callbacks, the metrics and what ai2-olmo opened."""
        for callback in self.callbacks:
            callback.on_close(self)
        self.metrics.close()
        super().close(exit_code)


def _seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generators that a step draws from.

    `torch.manual_seed` seeds all kinds of devices, and where there is none it remembers each call, with its traceback.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
