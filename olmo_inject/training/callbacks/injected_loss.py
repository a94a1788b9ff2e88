"""Measure loss and accuracy on the instances injected in each step, and the loss on all other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64

from olmo_inject.injection import Plan
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.training.callbacks.callback import Callback, Sums
from olmo_inject.training.evaluation.tasks import COLUMNS, score
from olmo_inject.training.loss import IGNORED, LOGITS_AT_ONCE

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

LOSS = "train/loss"  # cross-entropy per target token, in nats
LM_LOSS = "train/lm_loss"  # the same without the injected targets
# Names of a task's means over the tokens to be predicted in a step, and of the sums that they come from.
OF_ANSWERS = {"loss": "loss", "accuracy": "correct"}
OF_LABELS = {
    "label_mass": "label_mass",  # probability of the task's labels together
    "loss_among_labels": "loss_among_labels",  # cross-entropy if only the task's labels are possible
}


@runtime_checkable
class Injected(Protocol):
    """A source of rows with instances in them: an `InjectedCorpus`, or another trainer's run."""

    @property
    def plan(self) -> Plan:
        """What is injected in each step."""
        ...

    def spans(self, positions: Int64[np.ndarray, " b"]) -> InjectedSpans:
        """The tokens to inject at `positions`, and where in the row."""
        ...


class InjectedLoss(Callback):
    """Measures from the logits of the training pass, so it needs no forward pass of its own.

    `train/TASK/loss` and `accuracy` are over the tokens to be predicted: a LABEL, or an instance's continuation. For a
    LABEL, `label_mass` and `loss_among_labels` concern the task's labels. Otherwise `loss_all` is the loss over all the
    task's injected tokens.
    """

    def __init__(self, corpus: Injected) -> None:
        self.corpus = corpus
        self.tasks = corpus.plan.tasks
        self.names = [task.name for task in self.tasks]
        self._labels = {
            task.name: torch.from_numpy(task.label_tokens.astype(np.int64)) for task in self.tasks if task.is_triples
        }
        self._means = {name: OF_ANSWERS | (OF_LABELS if name in self._labels else {}) for name in self.names}
        self._whole = [name for name in self.names if name not in self._labels]
        self._spans: InjectedSpans | None = None  # for this rank's rows, in order
        self._seen = 0

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Declare the sums."""
        self._labels = {name: labels.to(trainer.device) for name, labels in self._labels.items()}
        per_task = tuple(f"{name}/{what}" for name in self.names for what in ("labels", *self._means[name].values()))
        whole = tuple(f"{name}/{what}" for name in self._whole for what in ("loss_all", "targets"))
        trainer.sums.declare(reals=("injected/loss", "injected/targets", *per_task, *whole))

    def before_step(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any]) -> None:
        """Look up which tokens of this rank's rows are injected."""
        self._spans = self.corpus.spans(batch["index"].numpy()) if self.tasks else None
        self._seen = 0

    def on_forward(
        self,
        trainer: InjectionTrainer,
        micro_batch: dict[str, Any],
        labels: torch.Tensor,
        logits: torch.Tensor,
    ) -> None:
        """Add up the injected targets of one micro-batch."""
        if (spans := self._spans) is None:
            return
        first, self._seen = self._seen, self._seen + len(logits)
        inside = (first <= spans.row) & (spans.row < self._seen)
        chosen = np.flatnonzero(inside & spans.is_target)
        if not len(chosen):
            return
        answers, of_task = spans.answer[chosen], spans.task[spans.span[chosen]]
        numbers = np.unique(of_task).tolist()
        # Which tokens these are is known on the host, so nothing waits for the device, and one copy takes it there.
        per_task = [np.flatnonzero(each) for n in numbers for each in (of_task == n, (of_task == n) & answers)]
        places = (spans.row[chosen] - first, spans.column[chosen] - 1, np.flatnonzero(answers), *per_task)
        rows, before, all_asked, *of_tasks = _on_device(places, logits.device)
        targets = labels[rows, before]
        losses, correct = _scored(logits, rows, before, targets, places[2], all_asked)
        counted = targets != IGNORED
        trainer.sums.add("injected/loss", losses.sum(dtype=torch.float64))
        trainer.sums.add("injected/targets", counted.sum())
        for number, mine, asked in zip(numbers, of_tasks[::2], of_tasks[1::2], strict=True):
            name = self.names[number]
            trainer.sums.add(f"{name}/loss", losses[asked].sum(dtype=torch.float64))
            trainer.sums.add(f"{name}/labels", counted[asked].sum())
            trainer.sums.add(f"{name}/correct", (correct[asked] & counted[asked]).sum())
            if name in self._labels:
                predicted = logits[rows[asked], before[asked]].float()
                scored = score(predicted, targets[asked], self._labels[name])
                among = (scored * counted[asked, None]).sum(dim=0)
                for what in OF_LABELS.values():
                    trainer.sums.add(f"{name}/{what}", among[COLUMNS.index(what)])
            else:
                trainer.sums.add(f"{name}/loss_all", losses[mine].sum(dtype=torch.float64))
                trainer.sums.add(f"{name}/targets", counted[mine].sum())

    def after_step(self, trainer: InjectionTrainer, step: int, sums: Sums) -> None:
        """Log the step."""
        values = {}
        if targets := sums["targets"]:
            values[LOSS] = sums["loss"] / targets
        if (text := text_loss(sums)) is not None:
            values[LM_LOSS] = text
        trainer.metrics.log(step, values)
        for name in self.names:
            if labels := sums[f"{name}/labels"]:
                means = self._means[name]
                values = {f"train/{name}/{what}": sums[f"{name}/{of}"] / labels for what, of in means.items()}
                trainer.metrics.log(step, values, count=int(labels))
        for name in self._whole:
            if targets := sums[f"{name}/targets"]:
                value = {f"train/{name}/loss_all": sums[f"{name}/loss_all"] / targets}
                trainer.metrics.log(step, value, count=int(targets))


def text_loss(sums: Sums) -> float | None:
    """Cross-entropy per target token that is not injected, in nats; None for a batch of injected ones alone."""
    others = sums["targets"] - sums["injected/targets"]
    return (sums["loss"] - sums["injected/loss"]) / others if others else None


def _on_device(
    arrays: Sequence[Int64[np.ndarray, " _"]], device: torch.device
) -> tuple[Int64[torch.Tensor, " _"], ...]:
    """The arrays on the device. They are copied together, without waiting for the device."""
    together = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        together = together.pin_memory().to(device, non_blocking=True)
    return together.split([len(array) for array in arrays])


def _scored(
    logits: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    targets: torch.Tensor,
    asked: Int64[np.ndarray, " a"],
    asked_there: Int64[torch.Tensor, " a"],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of each target (0 where masked), and for answers whether the target is the most likely token.

    Args:
        logits: [b, T, V].
        rows: index of the row of each target's logits.
        columns: index of the column of each target's logits.
        targets: token ids, or -100.
        asked: which targets are to be predicted by the task, ascending, on the host.
        asked_there: the same on the device.
    """
    losses, correct = [], torch.zeros_like(targets, dtype=torch.bool)
    at_once = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    for start in range(0, len(targets), at_once):
        some = slice(start, start + at_once)
        predicted = logits[rows[some], columns[some]].float()
        losses.append(F.cross_entropy(predicted, targets[some], reduction="none", ignore_index=IGNORED))
        first, beyond = np.searchsorted(asked, (some.start, some.stop)).tolist()
        chosen = asked_there[first:beyond]
        correct[chosen] = predicted[chosen - start].argmax(dim=-1) == targets[chosen]
    return torch.cat(losses), correct
