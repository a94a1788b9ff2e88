"""Test on a run's own ranks whether it can start. The run folder is never written to."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.box import SIMPLE
from rich.table import Table

from launch.cost.cost import count_checkpoints
from launch.cost.memory import estimate_memory
from launch.cost.report import in_bytes
from olmo_inject.config import Experiment
from olmo_inject.corpus.verify import recorded_files
from olmo_inject.errors import FoundByOneRank, UserError, in_one_line
from olmo_inject.rank_environment import ranks_on_this_node
from olmo_inject.tasks import Task
from olmo_inject.training.agreement import from_rank_0, on_every_rank
from olmo_inject.training.checkpoints.on_disk import latest
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.rank_data import open_data
from olmo_inject.training.timed_steps import TimedSteps, time_steps
from olmo_inject.utils.progress import show_progress
from olmo_inject.utils.words import counted

REDUCED = 4 * 2**20  # float32 numbers: 16 MiB, about the size of a bucket of DDP
# Time for the stop file to reach other nodes through a network file system (up to a minute), and for processes to end.
SPARE_SECONDS = 90


@dataclass(frozen=True)
class Check:
    """One line of the result.

    Attributes:
        name: what was tested.
        passed: whether it works.
        detail: the numbers, or what is wrong.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Preflight:
    """The result, the same on every rank.

    Attributes:
        checks: in order; after a failed one come those that do not need it.
        signal_seconds: how long before its time limit a job should be told to stop; None if no checkpoint was timed.
        timed_steps: the times and the memory of real steps; None if a check before them failed, or no step is left.
    """

    checks: list[Check]
    signal_seconds: int | None
    timed_steps: TimedSteps | None

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, **asdict(self)}


def run_checks(
    experiment: Experiment, device: torch.device, *, quick: bool = False, tasks: list[Task] | None = None
) -> Preflight:
    """Run every check (collective).

    Args:
        experiment: the run.
        device: this rank's.
        quick: time one step, write no checkpoint and do not hash the corpus.
        tasks: tasks that are already built; None builds them.

    Raises:
        FoundByOneRank: a check failed on this rank alone, while the others wait for it.
    """
    world = dist.get_world_size()
    checks = [_try("devices", lambda: _devices(device)), _try("all-reduce", lambda: _all_reduce(device))]
    checks.append(_try("experiment", lambda: _experiment(experiment, world, device, tasks)))
    corpus = _try("corpus", lambda: _corpus(experiment, quick, tasks))
    if (checks[-1].passed, checks[-1].detail) == (corpus.passed, corpus.detail):
        checks.pop()  # the experiment failed because of its corpus: report that once
    checks.append(corpus)
    checks.append(_try("disk", lambda: _disk(experiment)))
    timed: TimedSteps | None = None
    if all(check.passed for check in checks) and not _is_finished(experiment):

        def steps() -> str:
            nonlocal timed
            near = _existing(experiment.run_folder.absolute().parent)
            n_steps = 1 if quick else 3
            timed = time_steps(experiment, device, steps=n_steps, checkpoint=not quick, near=near, tasks=tasks)
            rate = experiment.batch_size * experiment.sequence_length / timed.step_seconds
            return f"{timed.step_seconds:.3g} s, {rate:,.0f} tokens/s"

        checks.append(_try("step", steps))
    signal: int | None = None
    if timed is not None:
        checks.append(_memory(experiment, timed))
        if timed.checkpoint_seconds is not None:
            signal = signal_seconds(timed.step_seconds, timed.checkpoint_seconds)
            detail = f"{in_bytes(timed.checkpoint_bytes or 0)} in {timed.checkpoint_seconds:.3g} s"
            checks.append(Check("checkpoint", True, f"{detail}; signal jobs {signal} s before their time limit"))
    return Preflight(checks, signal, timed)


def signal_seconds(step_seconds: float, checkpoint_seconds: float) -> int:
    """SLURM's `--signal` time, in seconds: twice what a step and a checkpoint take, and `SPARE_SECONDS`."""
    return math.ceil(2 * (step_seconds + checkpoint_seconds)) + SPARE_SECONDS


def checks_table(result: Preflight) -> Table:
    """A table with a row for each check."""
    table = Table(box=SIMPLE, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in result.checks:
        table.add_row("ok" if check.passed else "FAILED", check.name, check.detail)
    return table


def _try(name: str, work: Callable[[], str]) -> Check:
    """Run a check. If all ranks raise a `UserError`, the check has failed.

    Raises:
        FoundByOneRank: only this rank failed, for example for lack of memory. The others wait, so no check can follow.
    """
    try:
        return Check(name, True, work())
    except (UserError, torch.OutOfMemoryError) as error:
        message = in_one_line(error)
        if (isinstance(error, FoundByOneRank) or not isinstance(error, UserError)) and dist.get_world_size() > 1:
            raise FoundByOneRank(f"{name}: rank {dist.get_rank()}: {message}") from None
        return Check(name, False, message)


def _devices(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    counted = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    if len(set(names)) > 1:
        raise UserError(f"ranks have different devices: {counted}")
    return f"{counted}, {dist.get_backend()}"


def _all_reduce(device: torch.device) -> str:
    """Sum the ranks' numbers, twice: the first time builds the connections and is not timed."""
    rank, world = dist.get_rank(), dist.get_world_size()
    seconds = 0.0
    for _ in range(2):
        numbers = torch.full((REDUCED,), float(rank + 1), device=device)
        begun = time.monotonic()
        dist.all_reduce(numbers)
        wrong = int((numbers != world * (world + 1) / 2).sum())  # also waits for the device
        seconds = time.monotonic() - begun
        with on_every_rank("all-reduce"):
            if wrong:
                raise UserError(f"rank {rank} of {world} received {wrong:,} wrong sums of {REDUCED:,}")
    return f"{counted(world, 'rank')}, {in_bytes(4 * REDUCED)} in {1000 * seconds:.3g} ms, sums correct"


def _experiment(experiment: Experiment, world: int, device: torch.device, tasks: list[Task] | None) -> str:
    done = from_rank_0(
        lambda: check_before_launch(experiment, world, device.type, overwrite=False, tasks=tasks).done, "experiment"
    )
    if done is not None:
        return done
    begun = latest(experiment.run_folder)
    return f"{experiment.steps:,} steps" if begun is None else f"resumes from step {begun.step:,}"


def _is_finished(experiment: Experiment) -> bool:
    """Whether the run has no step left (collective)."""
    folder = experiment.run_folder
    last = from_rank_0(lambda: latest(folder), f"cannot read {folder}")
    return last is not None and last.step >= experiment.steps


def _corpus(experiment: Experiment, quick: bool, tasks: list[Task] | None) -> str:
    """Open and sample the corpus; each rank hashes its share of the files of a corpus folder or a staged corpus."""
    rank, world = dist.get_rank(), dist.get_world_size()
    data = open_data(experiment, tasks, every_node=True)
    with on_every_rank("corpus"):
        hashed = experiment.corpus.folder is not None and not quick
        if hashed:
            files = recorded_files(Path(str(experiment.corpus.folder)))[rank::world]
            size = sum(file.nbytes for file in files)
            with show_progress("hashing the corpus", size, "bytes", enabled=rank == 0) as meter:
                changed = [file.path for file in files if not file.is_sound(meter.advance)]
            if changed:
                raise UserError(f"{changed[0]} is damaged: its contents differ from the checksum in its folder")
    shards = counted(len(data.shards.names), "shard")
    sequences = f"{len(data.shards):,} sequences of {experiment.sequence_length} in {shards}"
    how = "every byte hashed" if hashed else "sampled"
    return f"{sequences}, {how}, fingerprint {data.shards.fingerprint()[:12]}"


def _disk(experiment: Experiment) -> str:
    begun = latest(experiment.run_folder)
    needed = count_checkpoints(experiment, 0 if begun is None else begun.step).bytes
    place = _existing(experiment.run_folder.absolute())
    with on_every_rank(f"{place}"):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(f"checkpoints need {in_bytes(needed)}; {place} has {in_bytes(free)} free")
    need = f"checkpoints need {in_bytes(needed)}" if needed else "no more checkpoints"
    return f"{need}; {place} has {in_bytes(free)} free"


def _memory(experiment: Experiment, timed: TimedSteps) -> Check:
    estimated = in_bytes(estimate_memory(experiment, timed.ranks, ranks_on_this_node(timed.ranks)).total)
    peak = in_bytes(timed.peak_memory)
    if timed.memory is not None:
        return Check("memory", True, f"{peak} of {in_bytes(timed.memory)} on each GPU; estimated {estimated}")
    # The kernel counts the whole process.
    detail = f"{peak} per process with Python and libraries; the estimate for training alone is {estimated}"
    return Check("memory", True, detail)


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
