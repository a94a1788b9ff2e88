"""SLURM's job arrays, whatever their elements do: a cluster's settings, batch scripts, and what is in the queue.

The submitting host needs no GPU. The settings of a cluster are one YAML file (`Site`).
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from launch.cells import QUEUED, RUNNING
from launch.sweep import TIME
from olmo_inject.errors import UserError
from olmo_inject.utils.described_yaml import read_described
from olmo_inject.utils.files import write_bytes

DEFAULT_ELEMENTS = 1001  # SLURM's default MaxArraySize


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
        configuration = answer_of(["scontrol", "show", "config"])
    except UserError:  # no SLURM, which `sbatch` will say if it is needed
        configuration = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", configuration, re.MULTILINE)
    return max(1, int(found[1])) if found else DEFAULT_ELEMENTS


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
    return answer_of(["sbatch", "--parsable", str(script.resolve())]).strip().split(";")[0]


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


def can_ask() -> bool:
    """Whether this host can ask SLURM what it runs and has in its queue."""
    return shutil.which("squeue") is not None


def elements(folder: Path) -> list[Element]:
    """The job arrays of the scripts in `folder` that SLURM runs or has in its queue; none if it is not installed.

    SLURM itself is asked, by the path of the scripts. A submitter may be killed before it records what it submitted,
    and the next one must not submit that again.
    """
    folder = folder.resolve()
    if not any(folder.glob("*.sbatch")) or not can_ask():
        return []
    listed = []
    for line in answer_of(["squeue", "--noheader", "--array", "--me", "--format=%F %K %T %o"]).splitlines():
        job, place, state, script = line.strip().split(" ", 3)
        if Path(script).parent == folder:
            running = state in ("RUNNING", "COMPLETING", "SIGNALING", "STOPPED", "SUSPENDED")
            activity = RUNNING if running else QUEUED
            listed.append(Element(f"{job}_{place}", int(place), Path(script), activity))
    return listed


def answer_of(command: Sequence[str]) -> str:
    """What one of SLURM's commands prints.

    Raises:
        UserError: it is not installed, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here: submit from a host of the SLURM cluster") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{command[0]} failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout
