"""Time a few real steps of an experiment in a temporary folder. The run's own folder is never touched."""

from __future__ import annotations

import logging
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from olmo_inject.config import CheckpointConfig, EvaluationConfig, Experiment, load_experiment
from olmo_inject.errors import reported
from olmo_inject.runs.read import TASKS, load_tasks
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import Task
from olmo_inject.training.agreement import from_rank_0
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.callbacks.evaluation import Evaluation
from olmo_inject.training.callbacks.progress import Progress
from olmo_inject.training.checkpoints.on_disk import first_step_of, latest
from olmo_inject.training.checks import check_ranks
from olmo_inject.training.parallel import process_group
from olmo_inject.training.rank_data import open_data
from olmo_inject.training.run import build_trainer
from olmo_inject.training.trainer import InjectionTrainer
from olmo_inject.utils.files import write_json

FOLDER_PREFIX = ".olmo-inject-timed-"
LEFT_FOR_DEAD = 24 * 3600  # age in seconds after which a temporary folder is removed
WARM_UP = 1  # steps before the timing, in which kernels are chosen and memory is allocated


@dataclass(frozen=True)
class TimedSteps:
    """Measured times and memory, the worst of all ranks.

    Attributes:
        ranks: number of ranks that took part.
        device: name of the GPU, or `cpu`.
        steps: number of timed steps.
        step_seconds: median time from batch to batch, which includes reading, update and measurements.
        checkpoint_seconds: time to write a full checkpoint; None if it was not measured.
        checkpoint_bytes: size of a full checkpoint; None if it was not measured.
        peak_memory: bytes that torch had allocated on the GPU, or the process's bytes on a CPU.
        memory: bytes of the GPU; None on a CPU.
    """

    ranks: int
    device: str
    steps: int
    step_seconds: float
    checkpoint_seconds: float | None
    checkpoint_bytes: int | None
    peak_memory: int
    memory: int | None


class _Clock(Callback):
    """Records when each step began and when the last one ended."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def before_step(self, trainer: InjectionTrainer, step: int, batch: dict[str, Any]) -> None:
        """Record the start of a step, after the wait for its batch."""
        self.mark(trainer.device)

    def mark(self, device: torch.device) -> None:
        """Record the time at which the device has finished its work."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.marks.append(time.monotonic())


def time_steps(
    experiment: Experiment,
    device: torch.device,
    *,
    steps: int,
    checkpoint: bool,
    near: Path | None = None,
    tasks: list[Task] | None = None,
) -> TimedSteps:
    """Train `steps` steps after one that is not timed, from new weights (collective).

    With `checkpoint` a checkpoint is written and timed too. The steps are those that the run would train next, since a
    staged corpus may hold no others, and no more than are left; of a finished run they are its first.

    Args:
        experiment: what to train, without the weights it starts from, its checkpoints and its evaluations.
        device: this rank's device.
        steps: number of steps to time, at least 1.
        checkpoint: whether to write a full checkpoint and time it.
        near: where the temporary folder is made, so that the checkpoint is on that disk; None: the system's place for
            temporary files.
        tasks: tasks that are already built; None builds them.

    Raises:
        UserError: as in `train`.
    """
    check_ranks(experiment, dist.get_world_size(), device.type)
    with _folder(near) as folder:
        run_folder = experiment.run_folder
        first_step = from_rank_0(lambda: first_step_of(experiment, latest(run_folder)), f"cannot read {run_folder}")
        if first_step >= experiment.steps:
            first_step = first_step_of(experiment, None)
        stop = min(first_step + WARM_UP + steps, experiment.steps)
        reduced = _reduced(experiment, folder, first_step)
        data = open_data(reduced, tasks)
        data.corpus.n_positions = stop * experiment.batch_size  # no more is read; the plan is the whole run's
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer = build_trainer(reduced, data, device, first_step)
        trainer.cfg.stop_at = stop
        clock = _Clock()
        kept = [callback for callback in trainer.callbacks if not isinstance(callback, Progress | Evaluation)]
        trainer.callbacks = [*kept[:-1], clock]  # the last callback writes checkpoints
        trainer.cfg.save_num_checkpoints_to_keep = 0  # ai2-olmo's loop writes none at its end
        try:
            trainer.fit()
            clock.mark(device)
            written = _timed_checkpoint(trainer) if checkpoint else (0.0, 0)
        finally:
            trainer.close()
        times = [later - sooner for sooner, later in zip(clock.marks, clock.marks[1:], strict=False)]
        times = times[WARM_UP:] or times  # a run may have one step left
        seconds = statistics.median(times)
        worst = torch.tensor([seconds, *written, _peak(device)], dtype=torch.float64, device=device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        seconds, saving, size, peak = worst.tolist()
        properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
        return TimedSteps(
            ranks=dist.get_world_size(),
            device="cpu" if properties is None else properties.name,
            steps=len(times),
            step_seconds=seconds,
            checkpoint_seconds=saving if checkpoint else None,
            checkpoint_bytes=int(size) if checkpoint else None,
            peak_memory=int(peak),
            memory=None if properties is None else properties.total_memory,
        )


def time_steps_as_rank(experiment_file: Path, result: Path, steps: int, device: str) -> None:
    """One rank of `python -m olmo_inject.training.timed_steps`: `time_steps`; rank 0 then writes the result as JSON.

    Args:
        experiment_file: the experiment; tasks saved beside it are used.
        result: the JSON file to write.
        steps: number of steps to time.
        device: auto, cpu or cuda.
    """
    logging.getLogger("olmo").setLevel(logging.ERROR)
    experiment, folder = load_experiment(experiment_file), experiment_file.parent
    names = [task.name for task in experiment.tasks]
    tasks = load_tasks(folder, names) if (folder / TASKS).is_dir() else None
    with process_group(device) as torch_device:
        timed = time_steps(experiment, torch_device, steps=steps, checkpoint=False, tasks=tasks)
        if dist.get_rank() == 0:
            write_json(result, asdict(timed))


def _reduced(experiment: Experiment, folder: Path, first_step: int) -> Experiment:
    """The experiment in another folder, with its plan, but without what it starts from, writes and evaluates."""
    reduced = deepcopy(experiment)
    reduced.folder = str(folder)
    reduced.start_from = None
    reduced.checkpoints, reduced.evaluation = CheckpointConfig(), EvaluationConfig()
    if reduced.gradients.at != StepSelection():  # they need the most memory; measured in the step that is not timed
        reduced.gradients.at = StepSelection(steps=[first_step])
    reduced.train.wandb = None
    return reduced


def _timed_checkpoint(trainer: InjectionTrainer) -> tuple[float, int]:
    """Seconds and bytes of a full checkpoint."""
    begun = time.monotonic()
    saved = trainer.save()
    seconds = time.monotonic() - begun
    return seconds, sum(file.stat().st_size for file in saved.path.rglob("*") if file.is_file())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes


@contextmanager
def _folder(near: Path | None) -> Iterator[Path]:
    """A temporary folder that all ranks see, deleted in the end (collective)."""
    place = Path(tempfile.gettempdir()) if near is None else near

    def make() -> Path:
        for left in place.glob(f"{FOLDER_PREFIX}*"):  # left by killed processes
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_FOR_DEAD:
                    shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place))

    folder = from_rank_0(make, f"cannot write {place}")
    try:
        yield folder
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with reported():
        time_steps_as_rank(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
