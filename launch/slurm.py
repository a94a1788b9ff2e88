"""Run the cells of a sweep as SLURM job arrays: one for all cells with the same resources, or several if it is full.

The submitting host needs no GPU. The batch script is `templates/cells.sbatch`. The settings of a cluster are one YAML
file (`Site`).
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from launch import cells
from launch.sweep import TIME, Cell, Resources, Sweep
from olmo_inject.described_yaml import read_described
from olmo_inject.errors import UserError
from olmo_inject.files import write_bytes, write_text
from olmo_inject.paths import expanded
from olmo_inject.words import counted

WAIT_SECONDS = 600  # maximum wait for a process that a lost node left running to release the run folder
EARLY_SECONDS = 60  # SLURM may send its signal this much earlier than requested
DEFAULT_ELEMENTS = 1001  # SLURM's default MaxArraySize
ARRAYS = "arrays"  # folder inside the sweep's: NUMBER.sbatch, and NUMBER.cells with the names of its cells
TEMPLATE = Path(__file__).parent / "templates" / "cells.sbatch"


@dataclass
class JobResources:
    """What a job of `--submit` runs on. Cells of a sweep have resources of their own."""

    cpus: int = 4
    gpus: int = 1
    """1 or 0; only commands with --device use it, and only if that is not cpu."""
    time: str = "04:00:00"
    """SLURM's time limit. A job that reaches it keeps what it has finished."""


@dataclass
class Site:
    """The settings of a cluster."""

    sbatch: list[str] = field(default_factory=list)
    """More sbatch options, e.g. `--account=abc`, `--partition=gpu`."""
    setup: list[str] = field(default_factory=list)
    """Shell lines to run first, e.g. `module load cuda`."""
    launcher: str = ""
    """Prefix of the command on each node, e.g. `apptainer exec --nv image.sif`."""
    python: str = sys.executable
    signal_seconds: int = 120
    """Seconds before the time limit at which a cell is told to save; `olmo-inject preflight` measures it."""
    template: str = ""
    """A template in place of the shipped one for cells."""
    job: JobResources = field(default_factory=JobResources)


def load_site(path: Path | None) -> Site:
    """Read a cluster's settings; None gives the defaults.

    Raises:
        UserError: a setting is unknown or invalid.
    """
    if path is None:
        return Site()
    site = read_described(path, Site)
    if site.signal_seconds < 1:
        raise UserError(f"{path}: signal_seconds: {site.signal_seconds} must be at least 1")
    if site.job.cpus < 1 or site.job.gpus not in (0, 1):
        raise UserError(f"{path}: job: cpus must be at least 1, and gpus 0 or 1")
    if not TIME.fullmatch(site.job.time):
        raise UserError(f"{path}: job.time: {site.job.time!r} is not [days-]hours:minutes:seconds")
    return site


def render(sweep: Sweep, resources: Resources, n_cells: int, listing: Path, site: Site) -> str:
    """The batch script of one array.

    Args:
        sweep: the sweep.
        resources: of each of its cells.
        n_cells: number of cells.
        listing: the file with their names, one per line.
        site: the cluster's settings.

    Raises:
        UserError: the template cannot be rendered, or the time limit is too short for its signal.
    """
    if _seconds(resources.time) <= site.signal_seconds + EARLY_SECONDS:
        raise UserError(
            f"resources.time: {resources.time} leaves no time to train: a cell is told to save "
            f"{site.signal_seconds} s before it (signal_seconds), and SLURM may signal {EARLY_SECONDS} s early"
        )
    template = Path(expanded(site.template, "template")) if site.template else TEMPLATE
    return render_template(
        template,
        site,
        sweep=sweep.name,
        folder=sweep.folder.resolve(),
        listing=listing.resolve(),
        last=n_cells - 1,
        at_once=min(sweep.at_once, n_cells),
        resources=resources,
        ranks=resources.ranks_per_node,
        cpus=resources.cpus_per_node,
        wait_seconds=WAIT_SECONDS,
        device="cuda" if resources.gpus_per_node else "cpu",
    )


def render_template(template: Path, site: Site, **values: Any) -> str:
    """A batch script.

    Args:
        template: a Jinja template.
        site: the cluster's settings.
        **values: what the template may use, beside `site` and `working_folder`.

    Raises:
        UserError: the template cannot be rendered.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    try:
        text = template.read_text(encoding="utf-8")
        return environment.from_string(text).render(site=site, working_folder=Path.cwd(), **values)
    except OSError as error:
        raise UserError(f"{template}: cannot be read: {error.strerror}") from None
    except jinja2.TemplateError as error:
        raise UserError(f"{template}: {error}") from None


def most_elements() -> int:
    """Elements that a job array of this cluster may have; SLURM's default if it does not answer."""
    try:
        configuration = _run(["scontrol", "show", "config"])
    except UserError:  # no SLURM, which `sbatch` will say if it is needed
        configuration = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", configuration, re.MULTILINE)
    return max(1, int(found[1])) if found else DEFAULT_ELEMENTS


def arrays(sweep: Sweep, chosen: Sequence[Cell]) -> list[Sweep]:
    """Group cells into job arrays by their resources. Arrays of the same resources share the number at once.

    Args:
        sweep: the sweep.
        chosen: its cells to submit.

    Returns:
        The sweep with the cells of each array.
    """
    found, most = [], most_elements()
    by_resources = sorted(chosen, key=lambda cell: str(asdict(cell.resources)))
    for _, group in groupby(by_resources, key=lambda cell: asdict(cell.resources)):
        alike = list(group)
        starts = range(0, len(alike), most)
        at_once = max(1, sweep.at_once // len(starts))
        found += [replace(sweep, cells=alike[start : start + most], at_once=at_once) for start in starts]
    return found


def scripts(sweep: Sweep, chosen: Sequence[Cell], site: Site) -> list[str]:
    """The batch scripts that a first submission would write.

    Args:
        sweep: the sweep.
        chosen: its cells to submit.
        site: the cluster's settings.
    """
    return [
        render(array, array.cells[0].resources, len(array.cells), sweep.folder / ARRAYS / f"{number}.cells", site)
        for number, array in enumerate(arrays(sweep, chosen))
    ]


def submit(sweep: Sweep, remaining: Sequence[Cell], site: Site) -> list[str]:
    """Submit cells, as the job arrays of `arrays`. The caller holds the sweep (`cells.submitting`).

    Args:
        sweep: the sweep.
        remaining: its cells to train.
        site: the cluster's settings.

    Returns:
        A line about each array.

    Raises:
        UserError: sbatch is not installed, or refuses; the message names what was submitted before.
    """
    lines = []
    for array in arrays(sweep, remaining):
        number = sum(1 for _ in (sweep.folder / ARRAYS).glob("*.sbatch"))
        listing = sweep.folder / ARRAYS / f"{number}.cells"
        script = listing.with_suffix(".sbatch")
        begun = (path for cell in array.cells for path in cells.files(sweep, cell).begun)
        try:
            with undone_if_refused([script, listing, *begun]):
                write_text(listing, "".join(f"{cell.name}\n" for cell in array.cells))
                write_text(script, render(array, array.cells[0].resources, len(array.cells), listing, site))
                for cell in array.cells:
                    cells.begin(sweep, cell, {"backend": "slurm", "array": number})
                job = sbatch(script)
        except UserError as error:
            before = f"; submitted before: {', '.join(lines)}" if lines else ""
            raise UserError(f"{error}{before}") from None
        lines.append(f"job array {job}: {counted(len(array.cells), 'cell')}, script {script}")
    return lines


@contextmanager
def undone_if_refused(paths: Iterable[Path]) -> Iterator[None]:
    """Give `paths` the content of before, or remove those that did not exist, if what is submitted here is refused."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except UserError:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, content)
        raise


def sbatch(script: Path) -> str:
    """Submit a batch script; returns SLURM's id of the job.

    Raises:
        UserError: sbatch is not installed, or refuses.
    """
    return _run(["sbatch", "--parsable", str(script.resolve())]).strip().split(";")[0]


def see_and_cancel(jobs: Sequence[str]) -> str:
    """SLURM's commands for jobs, by their ids."""
    return f"`squeue --jobs={','.join(jobs)}` shows them, `scancel {' '.join(jobs)}` cancels them"


@dataclass(frozen=True)
class Element:
    """An element of a job array that SLURM runs or has in its queue.

    Attributes:
        job: SLURM's id of it, e.g. 17_3.
        place: its number in the array.
        script: the batch script.
        state: running or queued.
    """

    job: str
    place: int
    script: Path
    state: str


def elements(folder: Path) -> list[Element]:
    """The job arrays of the scripts in `folder` that SLURM runs or has in its queue; none if it is not installed.

    SLURM itself is asked, by the path of the scripts. A submitter may be killed before it records what it submitted,
    and the next one must not submit that again.
    """
    folder = folder.resolve()
    if not any(folder.glob("*.sbatch")) or shutil.which("squeue") is None:
        return []
    listed = []
    for line in _run(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T %o"]).splitlines():
        job, place, state, script = line.strip().split(" ", 3)
        if Path(script).parent == folder:
            running = state in ("RUNNING", "COMPLETING", "SIGNALING", "STOPPED", "SUSPENDED")
            activity = cells.RUNNING if running else cells.QUEUED
            listed.append(Element(f"{job}_{place}", int(place), Path(script), activity))
    return listed


def slurm_cells(sweep: Sweep) -> list[tuple[str, Element]]:
    """The names of cells that SLURM runs or has in its queue, and their elements; none if SLURM is not installed."""
    listed = []
    for element in elements(sweep.folder / ARRAYS):
        names = element.script.with_suffix(".cells").read_text(encoding="utf-8").splitlines()
        listed.append((names[element.place], element))
    return listed


def active(sweep: Sweep) -> dict[str, str]:
    """Cells that SLURM runs or has in its queue: name to `running` or `queued`."""
    return {name: element.state for name, element in slurm_cells(sweep)}


def unseen(sweep: Sweep) -> str:
    """A line if the sweep was submitted to SLURM, which cannot be asked from this host; else an empty text."""
    if shutil.which("squeue") is not None or not any((sweep.folder / ARRAYS).glob("*.sbatch")):
        return ""
    return "squeue is not installed here, so cells in SLURM's queue are not seen: a host of the cluster sees them"


def cancel(sweep: Sweep) -> str | None:
    """Take queued cells out of the queue, and let running ones save and stop.

    Returns:
        A line about what was done; None if SLURM has no cell.

    Raises:
        UserError: SLURM does not answer.
    """
    if not (listed := slurm_cells(sweep)):
        return None
    for name, _ in listed:  # first, because a queued cell may start meanwhile
        write_text(cells.CellFiles(sweep.folder, name).cancel, "")
    queued = [element.job for _, element in listed if element.state == cells.QUEUED]
    if queued:
        _run(["scancel", "--state=PENDING", *queued])  # one that has started meanwhile saves and stops
    taken = counted(len(queued), "cell")
    return f"took {taken} out of SLURM's queue and asked {len(listed) - len(queued)} to save and stop"


def _seconds(time: str) -> int:
    """Seconds of SLURM's [days-]hours:minutes:seconds."""
    days, _, rest = time.rpartition("-")
    hours, minutes, seconds = map(int, rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here: submit from a host of the SLURM cluster") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{command[0]} failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout
