"""The study from the command line: run its sweeps, collect what has finished, and draw and judge what is collected.

python -m analysis.study run --at-once 2      # hours; goes on after an interruption
python -m analysis.study collect           # what has finished since, into analysis/study/results
python -m analysis.study                   # figures, tables and verdicts, from the repository alone
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.study.collect import RESULTS, collect
from analysis.study.measures import LEARNED_AUC, collected
from analysis.study.report import write_study
from launch.sweep import load_sweep
from olmo_inject.errors import UserError
from olmo_inject.paths import PATH

LADDER = "study-ladder"
SEEDS = ("s1", "s2", "s3")
FEW, MANY = 4, 16  # cells of the ladder's first seed, of 20
AGAIN = {"few": "study-ladder-often", "many": "study-ladder-rare"}  # where the ladder says nothing (PLAN.md)
SWEEPS = (
    LADDER,
    *("study-controls", "study-further", "study-tcmp", "study-gaps", "study-tadd", "study-stop"),
    *("study-together", "study-schedules", "study-layer"),
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
    """Train every sweep in the order of PLAN.md, failed cells once more, and collect each."""
    failed = set() if _train(LADDER, None, at_once) else {LADDER}
    _collect(LADDER, results)
    again = _again(results)
    sweeps = {name: load_sweep(name) for name in (*([] if again is None else [again]), *SWEEPS) if name != LADDER}
    for seed in SEEDS:
        for name, sweep in sweeps.items():
            if any(cell.labels["seed"] == seed for cell in sweep.cells):
                if not _train(name, seed, at_once):
                    failed.add(name)
                _collect(name, results)
    if failed:
        raise UserError(f"cells failed in {', '.join(sorted(failed))}: `olmo-inject sweep status NAME` says why")


def _train(name: str, seed: str | None, at_once: int) -> bool:
    command = ["-m", "olmo_inject", "sweep", "run", name, "--at-once", str(at_once), "--retry-failed"]
    only = [] if seed is None else ["--only", f"seed={seed}"]
    return subprocess.run([sys.executable, *command, *only], check=False).returncode == 0


def _collect(name: str, results: Path) -> None:
    if added := collect(name, results):
        print(f"{name}: {added} cells", flush=True)


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
