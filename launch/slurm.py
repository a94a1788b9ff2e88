"""Run the cells of a sweep as SLURM job arrays: one for all cells with the same resources, or several if it is full.

The batch script is `templates/cells.sbatch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

from launch import cells
from launch.job_arrays import (
    Element,
    Site,
    answer_of,
    can_ask,
    elements,
    most_elements,
    render_template,
    sbatch,
    undone_if_refused,
)
from launch.sweep import Cell, Resources, Sweep
from olmo_inject.errors import UserError
from olmo_inject.utils.files import write_text
from olmo_inject.utils.paths import expanded
from olmo_inject.utils.words import counted

WAIT_SECONDS = 600  # maximum wait for a process that a lost node left running to release the run folder
EARLY_SECONDS = 60  # SLURM may send its signal this much earlier than requested
ARRAYS = "arrays"  # folder inside the sweep's: NUMBER.sbatch, and NUMBER.cells with the names of its cells
TEMPLATE = Path(__file__).parent / "templates" / "cells.sbatch"


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
    if can_ask() or not any((sweep.folder / ARRAYS).glob("*.sbatch")):
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
        answer_of(["scancel", "--state=PENDING", *queued])  # one that has started meanwhile saves and stops
    taken = counted(len(queued), "cell")
    return f"took {taken} out of SLURM's queue and asked {len(listed) - len(queued)} to save and stop"


def _seconds(time: str) -> int:
    """Seconds of SLURM's [days-]hours:minutes:seconds."""
    days, _, rest = time.rpartition("-")
    hours, minutes, seconds = map(int, rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
