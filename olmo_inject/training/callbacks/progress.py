"""Shows step, rate, time left and losses during training."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from olmo_inject.runs.metrics import EVALUATION, SPEED, Metrics
from olmo_inject.tasks import Task
from olmo_inject.tasks.halves import judged
from olmo_inject.terminal import Console
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.callbacks.injected_loss import LM_LOSS
from olmo_inject.training.trainer import InjectionTrainer

SECONDS_BETWEEN_LINES = 10.0  # where standard error is no terminal
STEPS_BETWEEN_SPEEDS = 50


class Progress(Callback):
    """A progress bar on a terminal, else a line every ten seconds; also logs the speed.

    To be called after the evaluation, whose result it shows with the step.
    """

    def __init__(self, name: str, steps: int, tasks: list[Task], metrics: Metrics) -> None:
        self.name = name
        self.steps = steps
        self.task_names = [task.name for task in tasks]
        self.latest: dict[str, float] = {}
        self.evaluated_at = 0
        self._bar: Bar | None = None
        self._last_line = time.monotonic()
        metrics.listen(self._remember)

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Start the clock and the bar."""
        self._begun, self._first_step = time.monotonic(), trainer.global_step
        self._marked = (self._begun, trainer.global_step)
        if trainer.global_step:
            print(f"{self.name}: going on from step {trainer.global_step}", file=sys.stderr, flush=True)
        if trainer.device.type == "cpu" and trainer.cfg.precision != "fp32":  # as ai2-olmo does
            print(f"{self.name}: {trainer.cfg.precision} is for GPUs; on a CPU it is fp32", file=sys.stderr, flush=True)
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, TextColumn("{task.fields[values]}"), console=console)
            self._task = self._bar.add_task(self.name, total=self.steps, completed=trainer.global_step, values="")
            self._bar.start()

    def after_step(self, trainer: InjectionTrainer, step: int, sums: object) -> None:
        """Show the step."""
        now, completed = time.monotonic(), step + 1
        if completed % STEPS_BETWEEN_SPEEDS == 0:
            seconds, steps = now - self._marked[0], completed - self._marked[1]
            rate = steps / seconds
            tokens = rate * trainer.tokens_per_batch
            trainer.metrics.log(step, {f"{SPEED}steps_per_second": rate, f"{SPEED}tokens_per_second": tokens})
            self._marked = (now, completed)
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, values=self._values())
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or completed == self.steps:
            self._last_line = now
            rate = (completed - self._first_step) / (now - self._begun)
            left = timedelta(seconds=round((self.steps - completed) / rate))
            print(
                f"{self.name}: step {completed}/{self.steps}, {rate:.1f} steps/s, {left} left, {self._values()}",
                file=sys.stderr,
                flush=True,
            )

    def on_close(self, trainer: InjectionTrainer) -> None:
        """Stop the bar and restore the terminal."""
        if self._bar is not None:
            self._bar.stop()

    def _remember(self, step: int, values: Mapping[str, Any]) -> None:
        self.latest.update(values)
        if any(name.startswith(EVALUATION) for name in values):
            self.evaluated_at = step

    def _values(self) -> str:
        parts = [f"loss {self.latest[LM_LOSS]:.3f}"] if LM_LOSS in self.latest else []
        accuracies = {name: judged(self.latest, name) for name in self.task_names}
        known = [f"{name} {accuracy:.3f}" for name, accuracy in accuracies.items() if accuracy is not None]
        if known:
            parts.append(f"unmirrored accuracy at step {self.evaluated_at}: {', '.join(known)}")
        return ", ".join(parts)
