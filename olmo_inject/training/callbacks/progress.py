"""Show step, rate, time left and losses during training."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from olmo_inject.config import Experiment
from olmo_inject.data import ExperimentData
from olmo_inject.runs.metrics import EVALUATION, SPEED, Metrics
from olmo_inject.tasks.halves import deciding_accuracy
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.callbacks.injected_loss import LM_LOSS
from olmo_inject.training.trainer import InjectionTrainer
from olmo_inject.utils.progress import show_progress

STEPS_BETWEEN_SPEEDS = 50


class Progress(Callback):
    """Shows progress and logs the speed. It comes after the evaluation, whose result it shows.

    Args:
        experiment: what is trained.
        data: its tasks, whose accuracies are shown, and its plan, whose bursts raise the loss of their steps.
        metrics: the run's log.
    """

    def __init__(self, experiment: Experiment, data: ExperimentData, metrics: Metrics) -> None:
        self.name = experiment.name
        self.steps = experiment.steps
        self.task_names = [task.name for task in data.tasks]
        entries = zip(data.plan.entries, experiment.injections, strict=True)
        self.bursts = [(entry.task.name, entry.schedule) for entry, given in entries if given.schedule == "burst"]
        self.step = 0
        self.latest: dict[str, float] = {}
        self.evaluated_at = 0
        self._shown = ExitStack()
        metrics.listen(self._remember)

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Start the clock and the bar."""
        self._marked = (time.monotonic(), trainer.global_step)
        if trainer.global_step:
            print(f"{self.name}: continuing from step {trainer.global_step}", file=sys.stderr, flush=True)
        if trainer.device.type == "cpu" and trainer.cfg.precision != "fp32":  # ai2-olmo uses fp32 on a CPU
            print(f"{self.name}: {trainer.cfg.precision} is for GPUs; on a CPU it is fp32", file=sys.stderr, flush=True)
        shown = show_progress(self.name, self.steps, "steps", done=trainer.global_step, to_the_end=True)
        self._meter = self._shown.enter_context(shown)

    def after_step(self, trainer: InjectionTrainer, step: int, sums: object) -> None:
        """Show the step."""
        self.step = step
        now, completed = time.monotonic(), step + 1
        if completed % STEPS_BETWEEN_SPEEDS == 0:
            seconds, steps = now - self._marked[0], completed - self._marked[1]
            rate = steps / seconds
            tokens = rate * trainer.tokens_per_batch
            trainer.metrics.log(step, {f"{SPEED}steps_per_second": rate, f"{SPEED}tokens_per_second": tokens})
            self._marked = (now, completed)
        self._meter.update(completed, self.values)

    def on_close(self, trainer: InjectionTrainer) -> None:
        """Stop the bar and restore the terminal."""
        self._shown.close()

    def _remember(self, step: int, values: Mapping[str, Any]) -> None:
        self.latest.update(values)
        if any(name.startswith(EVALUATION) for name in values):
            self.evaluated_at = step

    def values(self) -> str:
        """What the line ends with: the latest losses and accuracies."""
        parts = [f"text loss {self.latest[LM_LOSS]:.3f}{self._burst()}"] if LM_LOSS in self.latest else []
        accuracies = {name: deciding_accuracy(self.latest, name) for name in self.task_names}
        known = [f"{name} {accuracy:.3f}" for name, accuracy in accuracies.items() if accuracy is not None]
        if known:
            parts.append(f"test accuracy at step {self.evaluated_at}: {', '.join(known)}")
        return ", ".join(parts)

    def _burst(self) -> str:
        names = [name for name, schedule in self.bursts if schedule.count(self.step)]
        return f" (in a burst of {' and '.join(dict.fromkeys(names))})" if names else ""
