"""The cells of a sweep as SLURM job arrays: one array for all cells of the same resources.

Works where the submitting host has no GPU. The job is `templates/cells.sbatch`, to be read and edited; what a
site needs is one YAML file (`SiteFile`).
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import jinja2

from launch import cells
from launch.sweep import Cell, Resources, Sweep
from olmo_inject.described_yaml import read_described
from olmo_inject.errors import UserError
from olmo_inject.files import write_text
from olmo_inject.paths import expanded

WAIT_SECONDS = 600  # for what a lost node may have left running to let go of the run folder
EARLY_SECONDS = 60  # SLURM may send its signal so much sooner than asked
ARRAYS = "arrays"  # in the sweep's folder: NUMBER.sbatch and NUMBER.cells, the names of its cells
TEMPLATE = Path(__file__).parent / "templates" / "cells.sbatch"


@dataclass
class SiteFile:
    """What one cluster needs, in a YAML file of the user's."""

    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, e.g. `--account=abc`, `--partition=gpu`."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the job's work, e.g. `module load cuda`."""
    launcher: str = ""
    """Put before the command on each node, e.g. `apptainer exec --nv image.sif`."""
    python: str = sys.executable
    signal_seconds: int = 120
    """How long before the time limit a cell is told to save: a checkpoint's time plus a step's, with a margin."""
    template: str = ""
    """A template of one's own in place of the shipped one."""


def load_site(path: Path | None) -> SiteFile:
    """Read a site file; none gives the defaults.

    Raises:
        UserError: the key, the value and what is allowed.
    """
    if path is None:
        return SiteFile()
    site = read_described(path, SiteFile)
    if site.signal_seconds < 1:
        raise UserError(f"{path}: signal_seconds: {site.signal_seconds} must be at least 1")
    return site


def render(sweep: Sweep, resources: Resources, n_cells: int, listing: Path, site: SiteFile) -> str:
    """The batch script of one array.

    Args:
        sweep: the sweep.
        resources: of each of its cells.
        n_cells: how many.
        listing: a file with their names, one a line.
        site: the cluster's settings.

    Raises:
        UserError: a template that cannot be rendered, or a time limit too short for its signal.
    """
    if _seconds(resources.time) <= site.signal_seconds + EARLY_SECONDS:
        raise UserError(
            f"resources.time: {resources.time} leaves no time to train: a cell is told to save "
            f"{site.signal_seconds} s before (signal_seconds), and SLURM may say so {EARLY_SECONDS} s sooner"
        )
    template = Path(expanded(site.template, "template")) if site.template else TEMPLATE
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(
            sweep=sweep.name,
            folder=sweep.folder.resolve(),
            listing=listing.resolve(),
            last=n_cells - 1,
            at_once=min(sweep.at_once, n_cells),
            working_folder=Path.cwd(),
            resources=resources,
            ranks=resources.ranks_per_node,
            cpus=resources.cpus_per_node,
            wait_seconds=WAIT_SECONDS,
            device="cuda" if resources.gpus_per_node else "cpu",
            site=site,
        )
    except OSError as error:
        raise UserError(f"{template}: cannot be read: {error.strerror}") from None
    except jinja2.TemplateError as error:
        raise UserError(f"{template}: {error}") from None


def arrays(todo: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each job array: those of the same resources."""
    by_resources = sorted(todo, key=lambda cell: str(asdict(cell.resources)))
    return [list(group) for _, group in groupby(by_resources, key=lambda cell: asdict(cell.resources))]


def scripts(sweep: Sweep, site: SiteFile) -> list[str]:
    """The batch scripts that submitting the whole sweep for the first time would write."""
    return [
        render(sweep, chosen[0].resources, len(chosen), sweep.folder / ARRAYS / f"{number}.cells", site)
        for number, chosen in enumerate(arrays(sweep.cells))
    ]


def submit(sweep: Sweep, todo: Sequence[Cell], site: SiteFile) -> list[str]:
    """Submit `todo`, one array for each kind of resources; to be called while `submitting`.

    Returns:
        A line for each array.

    Raises:
        UserError: sbatch is not here, or refuses.
    """
    lines = []
    for chosen in arrays(todo):
        number = sum(1 for _ in (sweep.folder / ARRAYS).glob("*.sbatch"))
        listing = sweep.folder / ARRAYS / f"{number}.cells"
        script = listing.with_suffix(".sbatch")
        write_text(listing, "".join(f"{cell.name}\n" for cell in chosen))
        write_text(script, render(sweep, chosen[0].resources, len(chosen), listing, site))
        for cell in chosen:
            cells.begin(sweep, cell, {"backend": "slurm", "array": number})
        try:
            job = _run(["sbatch", "--parsable", str(script.resolve())]).strip().split(";")[0]
        except UserError:
            for path in (script, listing, *(cells.files(sweep, cell).attempt for cell in chosen)):
                path.unlink()  # nothing was submitted: what may have begun before is in the run folders
            raise
        lines.append(f"job array {job}: {len(chosen)} cells, script {script}")
    return lines


@dataclass(frozen=True)
class Task:
    """A task of a job array that SLURM has, waiting or running."""

    job: str
    cell: str
    state: str


def tasks(sweep: Sweep) -> list[Task]:
    """What SLURM has of this sweep; nothing where there is no SLURM.

    SLURM itself is asked, by the path of the scripts, so that a submitter that was killed before it could write
    down what it submitted doubles nothing later.
    """
    folder = (sweep.folder / ARRAYS).resolve()
    if not any(folder.glob("*.sbatch")) or shutil.which("squeue") is None:
        return []
    found = []
    for line in _run(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T %o"]).splitlines():
        job, place, state, script = line.strip().split(" ", 3)
        if Path(script).parent != folder:
            continue
        names = Path(script).with_suffix(".cells").read_text(encoding="utf-8").splitlines()
        running = state in ("RUNNING", "COMPLETING", "SIGNALING", "STOPPED", "SUSPENDED")
        found.append(Task(f"{job}_{place}", names[int(place)], cells.RUNNING if running else cells.QUEUED))
    return found


def active(sweep: Sweep) -> dict[str, str]:
    """Cells that SLURM has: name to `running` or `queued`."""
    return {task.cell: task.state for task in tasks(sweep)}


def cancel(sweep: Sweep) -> str | None:
    """Take queued cells out of the queue, and let running ones save and stop.

    Returns:
        What was done, in a few words; None where SLURM has none of them.

    Raises:
        UserError: SLURM does not answer.
    """
    if not (found := tasks(sweep)):
        return None
    for task in found:  # first, for what starts meanwhile
        write_text(cells.CellFiles(sweep.folder, task.cell).cancel, "")
    queued = [task.job for task in found if task.state == cells.QUEUED]
    if queued:
        _run(["scancel", *queued])
    return f"{len(queued)} cells taken out of SLURM's queue, {len(found) - len(queued)} asked to save and stop"


def _seconds(time: str) -> int:
    """Of SLURM's [days-]hours:minutes:seconds."""
    days, _, rest = time.rpartition("-")
    hours, minutes, seconds = map(int, rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not here: submit from a host of the SLURM cluster") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{command[0]} failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout
