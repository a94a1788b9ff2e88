"""What can go wrong with a run, tried on its own ranks before it starts; the run folder is never written to."""

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
from olmo_inject.data import build_data
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.tasks import Task
from olmo_inject.training.agreement import on_every_rank
from olmo_inject.training.checkpoints.save_restore import latest
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.timed_steps import Trial, measure

REDUCED = 4 * 2**20  # float32 numbers: 16 MiB, of the order of DDP's buckets
# Between the signal and the first look at the stop file, which a network file system may show another node a minute
# late, and for the processes to end.
SPARE_SECONDS = 90


@dataclass(frozen=True)
class Check:
    """One line of the result.

    Attributes:
        name: what was tried.
        passed: whether it works.
        detail: what was found, with its numbers.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Preflight:
    """The result, the same on every rank.

    Attributes:
        checks: in order; after one that failed come those that do not need it.
        signal_seconds: how long before its time limit a job should be told to stop; None where no checkpoint
            was timed.
        trial: what was measured, if the steps could be trained.
    """

    checks: list[Check]
    signal_seconds: int | None
    trial: Trial | None

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return all(check.passed for check in self.checks)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"passed": self.passed, **asdict(self)}


def preflight(
    experiment: Experiment, device: torch.device, *, quick: bool = False, tasks: list[Task] | None = None
) -> Preflight:
    """Try everything (collective).

    Args:
        experiment: the run.
        device: this rank's.
        quick: one timed step, no checkpoint, and the corpus's contents are not hashed.
        tasks: as `build_data`'s.
    """
    world = dist.get_world_size()
    checks = [_try("devices", lambda: _devices(device)), _try("all-reduce", lambda: _all_reduce(device))]
    checks.append(_try("experiment", lambda: _experiment(experiment, world, device, tasks)))
    corpus = _try("corpus", lambda: _corpus(experiment, quick, tasks))
    if (checks[-1].passed, checks[-1].detail) == (corpus.passed, corpus.detail):
        checks.pop()  # what the experiment lacks is its corpus: once is enough
    checks.append(corpus)
    checks.append(_try("disk", lambda: _disk(experiment)))
    trial: Trial | None = None
    if all(check.passed for check in checks):

        def steps() -> str:
            nonlocal trial
            near = _existing(experiment.run_folder.absolute().parent)
            trial = measure(experiment, device, steps=1 if quick else 3, checkpoint=not quick, near=near, tasks=tasks)
            rate = experiment.batch_size * experiment.sequence_length / trial.step_seconds
            return f"{trial.step_seconds:.3g} s, {rate:,.0f} tokens/s"

        checks.append(_try("step", steps))
    signal: int | None = None
    if trial is not None:
        checks.append(_memory(experiment, trial))
        if trial.checkpoint_seconds is not None:
            signal = signal_seconds(trial.step_seconds, trial.checkpoint_seconds)
            detail = f"{in_bytes(trial.checkpoint_bytes or 0)} in {trial.checkpoint_seconds:.3g} s"
            checks.append(Check("checkpoint", True, f"{detail}; tell jobs to stop {signal} s before their limit"))
    return Preflight(checks, signal, trial)


def signal_seconds(step: float, checkpoint: float) -> int:
    """SLURM's `--signal` time: a step that has begun and a checkpoint, each at twice its time, and some to spare."""
    return math.ceil(2 * (step + checkpoint)) + SPARE_SECONDS


def checks_table(result: Preflight) -> Table:
    """The checks as rows."""
    table = Table(box=SIMPLE, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in result.checks:
        table.add_row("ok" if check.passed else "FAILED", check.name, check.detail)
    return table


def _try(name: str, work: Callable[[], str]) -> Check:
    """Run a check; a user's mistake that all ranks know of is its failure.

    Raises:
        FoundByOneRank: only this rank failed, by its memory for instance, so the others wait and nothing can follow.
    """
    try:
        return Check(name, True, work())
    except (UserError, torch.OutOfMemoryError) as error:
        said = " ".join(str(error).split())
        if (isinstance(error, FoundByOneRank) or not isinstance(error, UserError)) and dist.get_world_size() > 1:
            raise FoundByOneRank(f"{name}: rank {dist.get_rank()}: {said}") from None
        return Check(name, False, said)


def _devices(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    counted = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    if len(set(names)) > 1:
        raise UserError(f"ranks are on different devices: {counted}")
    return f"{counted}, {dist.get_backend()}"


def _all_reduce(device: torch.device) -> str:
    """Twice, since the first builds its connections; each rank contributes its number."""
    rank, world = dist.get_rank(), dist.get_world_size()
    seconds = 0.0
    for _ in range(2):
        numbers = torch.full((REDUCED,), float(rank + 1), device=device)
        begun = time.monotonic()
        dist.all_reduce(numbers)
        wrong = int((numbers != world * (world + 1) / 2).sum())  # waits for the device, too
        seconds = time.monotonic() - begun
        with on_every_rank("all-reduce"):
            if wrong:
                raise UserError(f"rank {rank} of {world} received {wrong:,} wrong sums of {REDUCED:,}")
    return f"{world} ranks, {in_bytes(4 * REDUCED)} in {1000 * seconds:.3g} ms, sums right"


def _experiment(experiment: Experiment, world: int, device: torch.device, tasks: list[Task] | None) -> str:
    with on_every_rank("experiment"):
        done = check_before_launch(experiment, world, device.type, overwrite=False, tasks=tasks)
    if done is not None:
        return done
    begun = latest(experiment.run_folder)
    return f"{experiment.steps:,} steps" if begun is None else f"goes on from step {begun.step:,}"


def _corpus(experiment: Experiment, quick: bool, tasks: list[Task] | None) -> str:
    """Readable, sampled, and what it was; each rank hashes its share of the files of a corpus folder or a stage."""
    rank, world = dist.get_rank(), dist.get_world_size()
    with on_every_rank("corpus"):
        data = build_data(experiment, tasks=tasks)
        hashed = experiment.corpus.folder is not None and not quick
        if hashed:
            for file in recorded_files(Path(str(experiment.corpus.folder)))[rank::world]:
                if not file.is_sound():
                    raise UserError(f"{file.path} is not what its folder records: its contents were changed")
    sequences = f"{len(data.shards):,} sequences of {experiment.sequence_length} in {len(data.shards.names)} shards"
    how = "every byte hashed" if hashed else "sampled"
    return f"{sequences}, {how}, fingerprint {data.shards.fingerprint()[:12]}"


def _disk(experiment: Experiment) -> str:
    begun = latest(experiment.run_folder)
    needed = count_checkpoints(experiment, 0 if begun is None else begun.step).bytes
    place = _existing(experiment.run_folder.absolute())
    with on_every_rank(f"{place}"):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(f"{in_bytes(free)} are free at {place}, checkpoints need {in_bytes(needed)}")
    need = f"checkpoints need {in_bytes(needed)}" if needed else "no more checkpoints are to be written"
    return f"{need}, {in_bytes(free)} are free at {place}"


def _memory(experiment: Experiment, trial: Trial) -> Check:
    estimated = in_bytes(estimate_memory(experiment, trial.ranks, trial.ranks).total)
    peak = in_bytes(trial.peak_memory)
    if trial.memory is not None:
        return Check("memory", True, f"{peak} of {in_bytes(trial.memory)} on each GPU; estimated {estimated}")
    # The kernel counts a process whole.
    detail = f"{peak} of each process, Python and libraries included; training alone is estimated at {estimated}"
    return Check("memory", True, detail)


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
