"""The demo: a corpus, a few small models at two frequencies and in bursts, an audit of each, and a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.read.runs import read_runs
from analysis.report.findings import sentences
from analysis.report.report import write_report
from launch.pool import Job, Outcome, run_jobs, train_command
from olmo_inject.audit import audit_run, save_audit
from olmo_inject.config import Experiment, load_experiment
from olmo_inject.corpus.from_text.sample import build_sample
from olmo_inject.errors import UserError
from olmo_inject.files import read_json
from olmo_inject.runs.read import AUDIT
from olmo_inject.terminal import Console
from olmo_inject.training.callbacks.evidence import EVIDENCE_FILE
from olmo_inject.training.checks import check_before_launch

# Configuration and width of every run; the slowest first, so that no core waits for one at the end.
RUNS = (
    ("demo", 64),
    ("demo-rare", 64),
    ("demo-burst", 64),
    ("demo", 32),
    ("demo-rare", 32),
    ("demo", 16),
    ("demo-rare", 16),
    ("demo", 8),
    ("demo-rare", 8),
)
TITLE = "Injection demo: one task, four widths, two frequencies and a burst"


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo.

    Attributes:
        config: its file in configs/experiments.
        overrides: what it changes there.
        experiment: both together.
    """

    config: str
    overrides: list[str]
    experiment: Experiment


def demo(folder: Path, *, jobs: int | None = None, overrides: Sequence[str] = ()) -> bool:
    """Make the demo in `folder`, or finish one that was interrupted; what is done is not done again.

    Args:
        folder: gets `corpus/`, `runs/`, `logs/`, `figures/` and `report.html`.
        jobs: how many runs train at once; by default one per core.
        overrides: changes to every run.

    Returns:
        Whether every run trained to its end and passed its audit.

    Raises:
        UserError: something else is in the way, in `folder` or in one of its runs.
        Stopped: as `run_jobs`; the same call goes on.
    """
    console = Console(stderr=True)
    _check_folder(folder)
    at_once = jobs if jobs is not None else len(os.sched_getaffinity(0))
    if at_once < 1:
        raise UserError(f"--jobs: {at_once} must be at least 1")
    corpus = build_sample(folder / "corpus", reuse=True)
    _say(console, f"corpus: {corpus.tokens:,} tokens of English in {folder / 'corpus'}")
    runs = list(_runs(folder, overrides))
    waiting = [run for run in runs if check_before_launch(run.experiment, 1, "cpu", overwrite=False) is None]
    _say(console, f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished already; {at_once} at a time")
    outcomes = run_jobs([_job(folder, run) for run in waiting], at_once, console=console)
    trained = [run.experiment.run_folder for run in runs if (run.experiment.run_folder / EVIDENCE_FILE).is_file()]
    passed = [_audited(run, console) for run in trained]
    if not trained:
        raise UserError(f"no run has begun; the first log: {outcomes[0].job.log}: {outcomes[0].last_line}")
    written = write_report(trained, folder / "report.html", title=TITLE, figures_to=folder / "figures")
    for sentence in sentences(read_runs(trained)):
        print(f"- {sentence}")
    print(f"report: {written[0]}")
    return all(passed) and not _failures(outcomes, console)


def _runs(folder: Path, overrides: Sequence[str]) -> Iterator[DemoRun]:
    for config, width in RUNS:
        name = f"{config.removeprefix('demo-').replace('demo', 'often')}-{width}"
        own = [
            f"name={name}",
            f"model=tiny-{width}",
            f"corpus.folder={folder / 'corpus'}",
            f"folder={folder / 'runs' / name}",
            *overrides,
        ]
        yield DemoRun(config, own, load_experiment(config, own))


def _job(folder: Path, run: DemoRun) -> Job:
    # On a machine with GPUs too: models so small gain nothing there, and all machines show the same.
    command = train_command(run.config, *run.overrides, "--device", "cpu", "--nproc", "1")
    return Job(run.experiment.name, command, folder / "logs" / f"{run.experiment.name}.log")


def _audited(run: Path, console: Console) -> bool:
    """Audit a run, unless that was done at its present length; True if it passed."""
    evidence, record = run / EVIDENCE_FILE, run / AUDIT
    if record.exists() and record.stat().st_mtime >= evidence.stat().st_mtime:
        return read_json(record)["passed"]
    audit = audit_run(run, progress=False)
    save_audit(audit)
    verdict = "every row as planned" if audit.passed else f"{audit.n_differences:,} differences"
    _say(console, f"audit of {run.name}: {sum(audit.checks.values()):,} comparisons, {verdict}")
    return audit.passed


def _failures(outcomes: Sequence[Outcome], console: Console) -> bool:
    failed = [outcome for outcome in outcomes if not outcome.succeeded]
    for outcome in failed:
        _say(console, f"{outcome.job.name} failed with status {outcome.status}, see {outcome.job.log}")
    return bool(failed)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to: {folder} is not a folder")


def _say(console: Console, message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)
