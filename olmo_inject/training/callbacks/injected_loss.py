"""Measures losses and accuracy on the LABELs injected in each step, and the loss on all other tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from olmo_inject.injection import Plan
from olmo_inject.tasks import LABEL_POSITION, SPLICED_TOKENS
from olmo_inject.training.callbacks.callback import Callback, Sums
from olmo_inject.training.evaluation.tasks import COLUMNS, score

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

LOSS = "train/loss"  # cross-entropy per target token, in nats
LM_LOSS = "train/lm_loss"  # the same without the injected targets
# A task's mean over the LABELs injected in a step, and the sum that it is of.
OF_LABELS = {
    "loss": "loss",
    "accuracy": "correct",
    "label_mass": "label_mass",  # probability of the task's labels together
    "loss_among_labels": "loss_among_labels",  # when they alone are possible
}


class InjectedLoss(Callback):
    """Reads the logits of the training pass, so it needs no forward pass of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names = [task.name for task in plan.tasks]
        self._labels = [torch.from_numpy(task.label_tokens.astype(np.int64)) for task in plan.tasks]
        self._entries = np.empty(0, np.int64)  # of this rank's rows, in order; -1 where nothing is injected
        self._tasks = np.empty(0, np.int16)
        self._seen = 0

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Declare the sums."""
        self._labels = [labels.to(trainer.device) for labels in self._labels]
        per_task = tuple(f"{name}/{what}" for name in self.names for what in ("labels", *OF_LABELS.values()))
        trainer.sums.declare(reals=("injected/loss", "injected/targets", *per_task))

    def before_step(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any]) -> None:
        """Look up which of this rank's rows are injected."""
        self._entries = self.plan.entries_of(step, batch["index"].numpy() % self.plan.batch_size)
        self._tasks = self.plan.at(step).task
        self._seen = 0

    def on_forward(
        self,
        trainer: InjectionTrainer,
        micro_batch: dict[str, Any],
        labels: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """Add up the injected targets of one micro-batch."""
        size = len(logits)
        entries = self._entries[self._seen : self._seen + size]
        self._seen += size
        injected = np.flatnonzero(entries >= 0)
        if not len(injected):
            return
        rows = torch.from_numpy(injected).to(logits.device)
        # Targets 1, 2 and 3 of a row (TOK2, LABEL, EOS) are predicted at positions 0, 1 and 2.
        targets = labels[rows, : SPLICED_TOKENS - 1]
        predicted = logits[rows, : SPLICED_TOKENS - 1].float()
        losses = F.cross_entropy(predicted.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
        losses = losses.view(targets.shape)
        counted = targets != -100
        trainer.sums.add("injected/loss", losses.sum(dtype=torch.float64))
        trainer.sums.add("injected/targets", counted.sum())
        label = LABEL_POSITION - 1
        correct = (predicted[:, label].argmax(dim=-1) == targets[:, label]) & counted[:, label]
        of_task = self._tasks[entries[injected]]
        for number in np.unique(of_task):
            mine = torch.from_numpy(np.flatnonzero(of_task == number)).to(logits.device)
            name = self.names[number]
            trainer.sums.add(f"{name}/loss", losses[mine, label].sum(dtype=torch.float64))
            trainer.sums.add(f"{name}/labels", counted[mine, label].sum())
            trainer.sums.add(f"{name}/correct", correct[mine].sum())
            scored = score(predicted[mine, label], targets[mine, label], self._labels[number])
            among = (scored * counted[mine, label, None]).sum(dim=0)
            trainer.sums.add(f"{name}/label_mass", among[COLUMNS.index("label_mass")])
            trainer.sums.add(f"{name}/loss_among_labels", among[COLUMNS.index("loss_among_labels")])

    def after_step(self, trainer: InjectionTrainer, step: int, sums: Sums) -> None:
        """Log the step."""
        values = {}
        if targets := sums["targets"]:
            values[LOSS] = sums["loss"] / targets
        if others := targets - sums["injected/targets"]:
            values[LM_LOSS] = (sums["loss"] - sums["injected/loss"]) / others
        trainer.metrics.log(step, values)
        for name in self.names:
            if labels := sums[f"{name}/labels"]:
                values = {f"train/{name}/{what}": sums[f"{name}/{of}"] / labels for what, of in OF_LABELS.items()}
                trainer.metrics.log(step, values, count=int(labels))
