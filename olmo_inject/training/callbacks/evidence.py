"""Write the evidence that an audit checks: what the model received, and which LABELs counted in its loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olmo_inject.runs import evidence
from olmo_inject.runs.metrics import JsonLines
from olmo_inject.runs.read import EVIDENCE_FILE
from olmo_inject.training.callbacks.callback import Callback, Sums

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer


class Evidence(Callback):
    """Writes one line per step on rank 0: the hash sum of the rows, counts of targets, and lifted masks."""

    def __init__(self, run_folder: Path | None) -> None:
        self._log = None if run_folder is None else JsonLines(run_folder / EVIDENCE_FILE)

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Declare the sums."""
        trainer.sums.declare(integers=("rows", "tokens", "overrides"))

    def on_forward(
        self,
        trainer: InjectionTrainer,
        micro_batch: dict[str, Any],
        labels: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """Hash the tensor that the model received."""
        trainer.sums.add("rows", len(micro_batch["index"]))
        trainer.sums.add("tokens", evidence.hash_sum(micro_batch["index"], micro_batch["input_ids"]))
        if (overridden := micro_batch.get("mask_overridden")) is not None:
            trainer.sums.add("overrides", overridden.sum())

    def after_step(self, trainer: InjectionTrainer, step: int, sums: Sums) -> None:
        """Write the step's line."""
        if self._log is not None:
            self._log.append(self.record(step, sums))

    def record(self, step: int, sums: Sums) -> dict[str, Any]:
        """The contents of a step's line."""
        labels = {name.removesuffix("/labels"): int(value) for name, value in sums.items() if name.endswith("/labels")}
        rows, tokens, targets, overrides = (int(sums[name]) for name in ("rows", "tokens", "targets", "overrides"))
        return evidence.step_line(step, rows, evidence.to_hex(tokens), targets, labels, overrides)

    def flush(self) -> None:
        """Pass the lines to the system, so that they outlive this process."""
        if self._log is not None:
            self._log.flush()

    def before_checkpoint(self, trainer: InjectionTrainer) -> None:
        """Flush the lines to disk."""
        if self._log is not None:
            self._log.flush(to_disk=True)

    def on_close(self, trainer: InjectionTrainer) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
