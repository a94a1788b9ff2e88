"""The study from the command line: run its sweeps, collect what has finished, and draw and judge what is collected.

python -m analysis.study run --at-once 2      # hours; goes on after an interruption, also on another machine
python -m analysis.study collect           # what has finished since, into analysis/study/results
python -m analysis.study                   # figures, tables and verdicts, from the repository alone
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.study.collect import RESULTS, collect, read_cells
from analysis.study.measures import LEARNED_AUC, collected
from analysis.study.report import write_study
from launch.sweep import Cell, Sweep, load_sweep
from olmo_inject.errors import UserError
from olmo_inject.utils.paths import PATH
from olmo_inject.utils.words import counted

LADDER = "study-ladder"
SEEDS = ("s1", "s2", "s3")
FEW, MANY = 4, 16  # cells of the ladder's first seed, of 20
AGAIN = {"few": "study-ladder-often", "many": "study-ladder-rare"}  # where the ladder says nothing (PLAN.md)
SWEEPS = (
    LADDER,
    *("study-controls", "study-further", "study-tcmp", "study-gaps", "study-tadd", "study-stop"),
    *("study-together", "study-schedules", "study-layer", "study-texts", "study-references", "study-further-texts"),
)
ResultsOption = Annotated[Path, PATH, typer.Option(help="Folder of collected results.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def study(context: typer.Context, results: ResultsOption = RESULTS) -> None:
    """Draw and judge what is collected."""
    if context.invoked_subcommand is None:
        for line in write_study(results, results.parent):
            print(line)


@app.command("collect")
def collect_all(results: ResultsOption = RESULTS) -> None:
    """Add the cells that have finished to the results; to be called where the sweeps ran."""
    for name in (*SWEEPS, *AGAIN.values()):
        _collect(name, results)


@app.command()
def run(at_once: Annotated[int, typer.Option(help="Cells at once.")] = 2, results: ResultsOption = RESULTS) -> None:
    """Train what the results do not hold, in the order of PLAN.md, failed cells once more, and collect it."""
    failed = {LADDER for seed in SEEDS if not _train_and_collect(LADDER, seed, at_once, results)}
    again = _again(results)
    for seed in SEEDS:
        for name in (*([] if again is None else [again]), *SWEEPS):
            if not _train_and_collect(name, seed, at_once, results):
                failed.add(name)
    if failed:
        raise UserError(f"cells failed in {', '.join(sorted(failed))}: `olmo-inject sweep status NAME` says why")


def _train_and_collect(name: str, seed: str, at_once: int, results: Path) -> bool:
    cells = not_collected(load_sweep(name), seed, results)
    # Those of study-further start from cells of the ladder, which may have been collected on another machine.
    starts = {Path(start).parent.name for cell in cells if (start := cell.experiment.start_from)}
    trained = _train(LADDER, [cell for cell in load_sweep(LADDER).cells if cell.name in starts], at_once)
    trained = _train(name, cells, at_once) and trained
    _collect(name, results)
    return trained


def not_collected(sweep: Sweep, seed: str, results: Path) -> list[Cell]:
    """The cells of a seed that the results do not hold."""
    there = {record["cell"] for record in read_cells(results / sweep.name)}
    return [cell for cell in sweep.cells if cell.labels["seed"] == seed and cell.name not in there]


def _train(name: str, cells: list[Cell], at_once: int) -> bool:
    if not cells:
        return True
    command = ["-m", "olmo_inject", "sweep", "run", name, "--at-once", str(at_once), "--retry-failed"]
    for axis in cells[0].labels:
        command += ["--only", f"{axis}={','.join(sorted({cell.labels[axis] for cell in cells}))}"]
    return subprocess.run([sys.executable, *command], check=False).returncode == 0


def _collect(name: str, results: Path) -> None:
    if added := collect(name, results):
        print(f"{name}: {counted(added, 'cell')}", flush=True)


def _again(results: Path) -> str | None:
    """The ladder to run again: too few or too many cells of its first seed have learned the task."""
    table = collected(results).get(LADDER)
    if table is None:
        return None
    learned = int((table.loc[table["seed"] == "s1", "auc_unmirrored"] >= LEARNED_AUC).sum())
    return AGAIN["few"] if learned < FEW else AGAIN["many"] if learned > MANY else None


if __name__ == "__main__":
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"olmo-inject: {error}", file=sys.stderr)
        sys.exit(2)
