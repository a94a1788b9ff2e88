"""Measure a run in any training loop, write its folder and evidence, and refuse to continue another run in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int64
from torch.distributed.tensor import DTensor

from olmo_inject.adapters.run import InjectedRun
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.runs import evidence
from olmo_inject.runs.folder import check_no_other_folder, locked, prepare, remove_unused
from olmo_inject.runs.metrics import Metrics, belongs_before, cut_back
from olmo_inject.runs.read import EVIDENCE_FILE, METRICS, SAVED, is_run, read_evidence, read_saved
from olmo_inject.runs.same_run import check_same_run
from olmo_inject.tasks import Task
from olmo_inject.training.agreement import is_first, on_every_rank
from olmo_inject.training.callbacks.callback import Callback, Sums
from olmo_inject.training.callbacks.evaluation import Evaluation
from olmo_inject.training.callbacks.evidence import Evidence
from olmo_inject.training.callbacks.injected_loss import InjectedLoss
from olmo_inject.training.evaluation.probes import Probe
from olmo_inject.training.evaluation.tasks import NextLogits, Scores, evaluate_shared
from olmo_inject.training.loss import IGNORED
from olmo_inject.training.sums import StepSums
from olmo_inject.utils.files import write_json
from olmo_inject.utils.owned_folder import absent


class Recorder:
    """Measures a run. Call `begin` once, `forward` for each micro-batch, and `end_step` after each optimizer update.

    Every process makes all calls in the same order: `begin`, `end_step` and `close` communicate between processes. Use
    it as a context manager, or call `close`.

    Args:
        run: the experiment that is trained.
        go_on: what a user must do to continue from a checkpoint; completes the message for one who forgot.
    """

    def __init__(self, run: InjectedRun, go_on: str = "load its checkpoint") -> None:
        self.run = run
        self.go_on = go_on
        self.metrics = Metrics(None)
        self.resumed = False
        self.global_step = 0
        """Completed steps."""
        self._callbacks: list[Callback] = []
        self._closing = ExitStack()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # a trainer that ends with an error calls no callback

    def begin(
        self,
        model: torch.nn.Module,
        next_logits: NextLogits,
        *,
        step: int = 0,
        described: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and open the run folder, and evaluate if the run is new (collective).

        The folder is written for a new run. For a resumed one its logs are cut back to `step`.

        Args:
            model: the model that is trained.
            next_logits: maps rows [b, t] to the model's logits after the last token [b, V], float32.
            step: completed steps of the restored checkpoint; 0 for a new run.
            described: description of the model; reports show `size` and `parameters`.
            settings: settings of the trainer that decide what is computed.

        Raises:
            UserError: the folder holds another run, or this run was trained further and no checkpoint was restored.
        """
        self.dist_model, self.next_logits = model, next_logits
        self.device = next(model.parameters()).device
        self.global_step, self.resumed = step, step > 0
        self.sums = StepSums(self.device)
        self.sums.declare(reals=("loss", "targets"))
        experiment, folder = self.run.experiment, self.run.experiment.run_folder
        experiment.model, experiment.settings = dict(described or {}), dict(settings or {})
        with on_every_rank(f"cannot prepare {folder}"):
            experiment.check_vocabulary(self.run.data.source.vocabulary)
            if is_first():
                self._open_folder(folder)
            if not self.has_saved_weights(model, step):
                raise UserError(f"{folder}: the model's weights are not those that checkpoint {step} was saved with")
        first = folder if is_first() else None
        self.metrics = Metrics(None if first is None else folder / METRICS)
        evaluation = _SharedEvaluation(
            experiment.evaluation, self.run.data.tasks, [], experiment.eval_interval, experiment.steps
        )
        self._kept = kept = Evidence(first) if experiment.has_host else _SpliceEvidence(first, self.run)
        self._callbacks = [InjectedLoss(self.run), kept, evaluation]
        for callback in self._callbacks:
            callback.before_first_step(cast("Any", self))

    def _open_folder(self, folder: Path) -> None:
        """Lock the run folder and write it, or cut its logs back to the step to continue from (one process)."""
        check_no_other_folder(folder)
        made = absent(folder)
        self._closing.enter_context(locked(folder))
        self._closing.callback(remove_unused, folder, made)
        step = self.global_step
        if is_run(folder):
            check_same_run(self.run.experiment, self.run.data)
            saved, lines = read_saved(folder), list(read_evidence(folder))
            trained = saved["step"] if saved is not None else 0
            if lines and lines[-1]["step"] + 1 == self.run.experiment.steps:  # finished, though nothing was saved
                trained = self.run.experiment.steps
            if trained and not step:
                raise UserError(
                    f"{folder} has been trained to step {trained}: {self.go_on} to continue, or choose another folder"
                )
            if step and (not lines or lines[-1]["step"] + 1 < step):
                last = lines[-1]["step"] + 1 if lines else 0
                raise UserError(f"{folder} has evidence up to step {last}, and the checkpoint is of step {step}")
        prepare(self.run.experiment, self.run.data, step)
        self.run.prepare_order()
        keep = belongs_before(step) if step else lambda line: False
        for name in (METRICS, EVIDENCE_FILE):
            cut_back(folder / name, keep)

    def forward(
        self,
        index: Int64[torch.Tensor, " b"],
        input_ids: Int64[torch.Tensor, "b t"],
        labels: Int64[torch.Tensor, "b t"],
        logits: torch.Tensor,
        loss_sum: torch.Tensor | float,
    ) -> None:
        """Measure one micro-batch of the current step.

        Args:
            index: position of each row.
            input_ids: token ids as the model received them.
            labels: not shifted; -100 for tokens that are not targets.
            logits: [b, t, V].
            loss_sum: cross-entropy summed over the targets, in nats.

        Raises:
            UserError: a row belongs to another step, so the loader's order is not the plan's.
        """
        positions = index.cpu()
        strays = positions[positions // self.run.plan.batch_size != self.global_step]
        if len(strays):
            of = int(strays[0]) // self.run.plan.batch_size
            raise FoundByOneRank(
                f"step {self.global_step}: the loader gave a row of step {of}: read positions in order, without "
                "shuffling, from where the checkpoint left off"
            )
        with torch.no_grad():
            targets = labels[:, 1:]
            batch = {"index": index, "input_ids": input_ids}
            self.sums.add("loss", torch.as_tensor(loss_sum, device=self.device).detach().double())
            self.sums.add("targets", (targets != IGNORED).sum())
            for callback in self._callbacks:
                callback.before_step(cast("Any", self), self.global_step, {"index": positions})
                callback.on_forward(cast("Any", self), batch, targets, logits.detach())

    def end_step(self, values: Mapping[str, float] | None = None) -> None:
        """Write the step's measurements after its update, and evaluate if due (collective).

        Args:
            values: further values to log with the step, such as `optim/learning_rate`.

        Raises:
            UserError: the processes together did not get the rows of the step.
        """
        step, sums = self.global_step, self.sums.reduce()
        if sums["rows"] != self.run.plan.batch_size:
            raise UserError(
                f"step {step}: the model was given {sums['rows']} rows, the plan's batch has {self.run.plan.batch_size}"
            )
        self.metrics.log(step, values or {})
        self.global_step = step + 1
        for callback in self._callbacks:
            callback.after_step(cast("Any", self), step, sums)
        self.metrics.flush()
        self._kept.flush()

    def before_checkpoint(self) -> None:
        """Flush all logs to disk, so that no checkpoint is newer than the logs."""
        for callback in self._callbacks:
            callback.before_checkpoint(cast("Any", self))
        self.metrics.flush(to_disk=True)

    def after_checkpoint(self, step: int | None = None) -> None:
        """Record that a checkpoint was written, with a checksum of its weights.

        Args:
            step: completed steps of the checkpoint, if more steps were completed while it was written.
        """
        if not is_first():
            return
        folder, step = self.run.experiment.run_folder, self.global_step if step is None else step
        known = read_saved(folder)
        weights = {} if known is None else known["weights"]
        weights = {other: total for other, total in weights.items() if int(other) < step}
        if step == self.global_step and (checksum := weights_sum(self.dist_model)) is not None:
            weights |= {str(step): checksum}
        write_json(folder / SAVED, {"step": step, "weights": weights})

    def has_saved_weights(self, model: torch.nn.Module, step: int) -> bool:
        """Whether the model has the weights of this run's checkpoint at `step`; True if no checksum is known."""
        known = read_saved(self.run.experiment.run_folder)
        return known is None or known["weights"].get(str(step)) in (None, weights_sum(model))

    def close(self) -> None:
        """Close the logs and release the run folder."""
        for callback in self._callbacks:
            callback.on_close(cast("Any", self))
        self._callbacks = []
        self.metrics.close()
        self._closing.close()


def weights_sum(model: torch.nn.Module) -> str | None:
    """A checksum over the bits of all weights; None if other processes hold parts of the model."""
    total = 0
    for number, parameter in enumerate(model.parameters(), 1):
        if isinstance(parameter, DTensor):
            return None
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32}.get(parameter.itemsize, torch.int64)
        bits = parameter.detach().contiguous().flatten().view(integers)
        total += number * int(bits.sum(dtype=torch.int64))
    return evidence.to_hex(total)


class _SharedEvaluation(Evaluation):
    """Evaluates any model, with the instances shared out among processes."""

    def probes(self, task: Task, ids: Int64[np.ndarray, " n"]) -> list[Probe]:
        return []  # probes need logits of whole rows, but `next_logits` only gives those after the last token

    def score(self, trainer: Any, task: Task, ids: Int64[np.ndarray, " n"]) -> Scores:
        trainer.dist_model.eval()
        return evaluate_shared(trainer.next_logits, task, ids, self.config.batch_size, trainer.device)


class _SpliceEvidence(Evidence):
    """Evidence for rows that another loader reads: adds a hash of the injected tokens, all other tokens being zeros."""

    def __init__(self, run_folder: Path | None, run: InjectedRun) -> None:
        super().__init__(run_folder)
        self.run = run

    def before_first_step(self, trainer: Any) -> None:
        super().before_first_step(trainer)
        trainer.sums.declare(integers=("injected",))

    def on_forward(self, trainer: Any, micro_batch: dict[str, Any], labels: torch.Tensor, logits: torch.Tensor) -> None:
        super().on_forward(trainer, micro_batch, labels, logits)
        index, tokens = micro_batch["index"], micro_batch["input_ids"]
        rows = index.cpu().numpy() % self.run.plan.batch_size
        written = self.run.splice(np.zeros(tuple(tokens.shape), np.int64), trainer.global_step, rows)
        mask = torch.from_numpy(written).to(tokens.device)
        injected = mask.any(dim=1)
        total = evidence.hash_sum(index.to(tokens.device)[injected], (tokens * mask)[injected])
        trainer.sums.add("injected", total)

    def record(self, step: int, sums: Sums) -> dict[str, Any]:
        return super().record(step, sums) | {"injected": evidence.to_hex(int(sums["injected"]))}
