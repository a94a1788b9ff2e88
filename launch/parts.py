"""Do the parts of a command in several processes, here or as a SLURM job array.

Every process runs the same command with `--part i/n`. What a part has finished is kept, so a part that is started
again does only what is missing.

    FOLDER/0.sbatch           the script of the first array, and 0.json with the number of its parts
    FOLDER/logs/part-7.log    the output of part 7, of all its attempts
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.job_arrays import Element, Site, elements, render_template, sbatch, see_and_cancel, undone_if_refused
from launch.local import visible_gpus
from launch.pool import Command, run_commands
from olmo_inject.errors import UserError
from olmo_inject.utils.cores import available_cores
from olmo_inject.utils.files import read_json, write_json, write_text
from olmo_inject.utils.locks import LOCK, locked
from olmo_inject.utils.words import counted

TEMPLATE = Path(__file__).parent / "templates" / "parts.sbatch"
KEPT_STATUSES = (0, 1)  # 1: the part has done its work, and found something or left something out


@dataclass(frozen=True)
class Parts:
    """A command that is divided into parts.

    Attributes:
        command: its words, such as `analyze patching`.
        arguments: its options and arguments.
        folder: for scripts and logs; every node sees it.
        count: number of parts.
        missing: the parts that have something left to do.
        wants_gpu: whether a part computes on a GPU if there is one.
    """

    command: Sequence[str]
    arguments: Sequence[str]
    folder: Path
    count: int
    missing: Sequence[int]
    wants_gpu: bool

    def log(self, part: int) -> Path:
        """The output of a part."""
        return self.folder / "logs" / f"part-{part}.log"


def processes_here(wants_gpu: bool) -> int:
    """How many parts this machine does at once: one per GPU, or per core."""
    return len(visible_gpus() if wants_gpu else []) or available_cores()


def run_parts(parts: Parts, at_once: int) -> None:
    """Do the missing parts on this machine, and wait for them.

    Args:
        parts: what to do.
        at_once: processes at the same time.

    Raises:
        UserError: a part was killed or refused its work; the logs say why.
        Stopped: after Ctrl-C or SIGTERM.
    """
    gpus = visible_gpus() if parts.wants_gpu else []
    threads = None if os.environ.get("OMP_NUM_THREADS") else max(1, available_cores() // at_once)
    commands = [
        Command(
            f"part {part} of {parts.count}",
            [sys.executable, "-m", "olmo_inject", *parts.command, "--part", f"{part}/{parts.count}", *parts.arguments],
            parts.log(part),
            threads,
            1 if gpus else 0,
        )
        for part in parts.missing
    ]
    outcomes = run_commands(commands, min(at_once, len(gpus) or at_once), gpus=gpus)
    failed = [outcome for outcome in outcomes if outcome.status not in KEPT_STATUSES]
    if failed:
        first = failed[0]
        raise UserError(
            f"{len(failed)} of {len(outcomes)} parts failed, {first.command.name}: {first.last_line or first.how}; the "
            f"same command does what is missing; logs in {parts.folder / 'logs'}"
        )


def submit_parts(parts: Parts, site: Site) -> str:
    """Submit the missing parts to SLURM that it does not have yet, as one job array.

    Args:
        parts: what to do.
        site: the cluster's settings.

    Returns:
        A line about what was submitted, and how to see and cancel it.

    Raises:
        UserError: another process submits the same; earlier jobs divide the work otherwise; sbatch refuses.
    """

    def busy() -> str:
        return f"{parts.folder} is in use: another process is submitting these parts"

    with locked(parts.folder / LOCK, busy, str(parts.folder)):
        active = elements(parts.folder)
        _check_division(parts, active)
        queued = {element.place for element in active}
        new = [part for part in parts.missing if part not in queued]
        having = f", {counted(len(queued), 'part')} running or queued" if queued else ""
        jobs = sorted({element.job.split("_")[0] for element in active}, key=int)
        if not new:
            return f"nothing to submit{having}" + (f"; {see_and_cancel(jobs)}" if jobs else "")
        number = sum(1 for _ in parts.folder.glob("*.sbatch"))
        script = parts.folder / f"{number}.sbatch"
        parts.log(0).parent.mkdir(parents=True, exist_ok=True)
        gpus = site.job.gpus if parts.wants_gpu else 0
        values = {"title": " ".join(parts.command), "command": parts.command, "arguments": parts.arguments}
        more = {"parts": new, "count": parts.count, "gpus": gpus, "job": site.job, "folder": parts.folder.resolve()}
        with undone_if_refused([script, script.with_suffix(".json")]):
            write_text(script, render_template(TEMPLATE, site, **values, **more))
            write_json(script.with_suffix(".json"), {"count": parts.count})
            job = sbatch(script)
        return (
            f"job array {job}: {len(new)} of {counted(parts.count, 'part')}{having}, logs in {parts.folder / 'logs'}; "
            f"{see_and_cancel([*jobs, job])}"
        )


def _check_division(parts: Parts, active: Sequence[Element]) -> None:
    """Check that the jobs in the queue divide the work into as many parts as this command."""
    counts: Mapping[Path, int] = {
        element.script: read_json(element.script.with_suffix(".json"))["count"] for element in active
    }
    if others := [element for element in active if counts[element.script] != parts.count]:
        first = others[0]
        raise UserError(
            f"job array {first.job.split('_')[0]} still does the same in {counted(counts[first.script], 'part')}, not "
            f"{parts.count}: wait for it, or `scancel` it, or give --parts {counts[first.script]}"
        )
