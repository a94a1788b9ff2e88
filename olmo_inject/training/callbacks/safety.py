"""Stop a diverging run before the update that would damage its weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from olmo.torch_util import move_to_device

from olmo_inject.config import SafetyConfig
from olmo_inject.errors import UserError
from olmo_inject.runs.read import read_metrics
from olmo_inject.training.callbacks.callback import Callback, Sums
from olmo_inject.training.callbacks.injected_loss import LM_LOSS, text_loss
from olmo_inject.training.trainer import InjectionTrainer

ROWS_NAMED = 5


def past_losses(metrics: Path, n: int) -> list[float]:
    """The last `n` losses of its text that a run logged before a resume; empty if it has not begun."""
    if not metrics.exists():
        return []
    return list(deque((line["value"] for line in read_metrics(metrics.parent) if line["name"] == LM_LOSS), maxlen=n))


class Safety(Callback):
    """Stops at a loss that is not finite, or at a spike of the loss on tokens that are not injected.

    A burst raises the loss of its step, beside text that the model knows by heart many times over, and is no spike. The
    message names the step and its worst rows.

    Args:
        config: what counts as a spike.
        history: losses of the text before a resume, so that a resumed run stops exactly where an uninterrupted one
            does.
    """

    def __init__(self, config: SafetyConfig, history: Iterable[float] = ()) -> None:
        self.config = config
        self.recent = deque(history, maxlen=config.spike_window)

    def before_update(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any], sums: Sums) -> None:
        """Check the step's reduced loss, which is the same on all ranks."""
        loss = sums["loss"] / max(sums["targets"], 1)
        if not math.isfinite(loss):
            self._stop(trainer, step, batch, f"loss is {loss}")
        if (text := text_loss(sums)) is None:
            return
        if (limit := self._limit()) is not None and text > limit:
            self._stop(
                trainer, step, batch, f"loss of the text {text:.3f} spiked above {limit:.3f} (safety.spike_factor)"
            )
        self.recent.append(text)

    def _limit(self) -> float | None:
        n = self.config.spike_window
        if self.config.spike_factor is None or len(self.recent) < n:
            return None
        mean = sum(self.recent) / n
        return mean + self.config.spike_factor * math.sqrt(sum((loss - mean) ** 2 for loss in self.recent) / n)

    def _stop(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any], why: str) -> None:
        rows = ", ".join(f"{row} ({loss:.2f})" for row, loss in self._worst_rows(trainer, batch))
        last = trainer.last_saved.path if trainer.last_saved is not None else "none"
        raise UserError(f"step {step}: {why}; rows with the highest loss: {rows}; last good checkpoint: {last}")

    def _worst_rows(self, trainer: InjectionTrainer, batch: dict[str, Any]) -> list[tuple[int, float]]:
        """The global rows with the highest loss, NaN first. Computes the batch again (collective)."""
        mine: list[tuple[int, float]] = []
        size = trainer.cfg.global_train_batch_size
        with torch.no_grad():
            for micro_batch in trainer.split_batch(trainer.sent(batch)):
                losses, _ = trainer.eval_batch(move_to_device(micro_batch, trainer.device))
                mine += zip((micro_batch["index"] % size).tolist(), losses.float().tolist(), strict=True)
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        rows = [row for rank in everyone for row in rank]
        return sorted(rows, key=lambda row: -(row[1] if math.isfinite(row[1]) else math.inf))[:ROWS_NAMED]
