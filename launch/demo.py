"""The demo: two small corpora, the sweep `configs/sweeps/demo.yaml`, an audit of each run, and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.read.runs import read_runs
from analysis.report.findings import sentences
from analysis.report.report import write_report
from launch.submit import run_sweep
from launch.sweep import load_sweep
from olmo_inject.audit import audit_run, save_audit
from olmo_inject.corpus.folder import TOKENIZER
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.corpus.from_text.sample import build_sample
from olmo_inject.errors import UserError
from olmo_inject.runs.read import AUDIT, EVIDENCE_FILE
from olmo_inject.utils.files import read_json, write_text
from olmo_inject.utils.terminal import Console

SWEEP = "demo"
TITLE = "Injection demo: one task in bursts, four widths, and text to compete with or not"
VOCABULARY = 512
ALTERNATING = "the of " * 1024  # text that any model soon predicts


def demo(folder: Path, *, at_once: int | None = None, overrides: Sequence[str] = ()) -> bool:
    """Make the demo in `folder`, or finish one that was interrupted. Finished parts are not repeated.

    Args:
        folder: folder of the sweep, which also gets `english/`, `alternating/`, `figures/` and `report.html`.
        at_once: runs that train at the same time; None: one per core.
        overrides: changes to every run, as key=value.

    Returns:
        Whether every run trained to its end and passed its audit.

    Raises:
        UserError: the folder holds something else, or a run of another experiment.
        Stopped: after Ctrl-C or SIGTERM; the same call continues.
    """
    console = Console(stderr=True)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder} is not a folder")
    sweep = load_sweep(SWEEP, folder=folder, overrides=overrides)
    _make_corpora(folder, console)
    succeeded = run_sweep(sweep, at_once=at_once, retry_failed=True, console=console)
    runs = [cell.experiment.run_folder for cell in sweep.cells]
    begun = [run for run in runs if (run / EVIDENCE_FILE).is_file()]
    if not begun:
        raise UserError(f"no run has begun; see the logs in {folder / 'logs'}")
    passed = [_audited(run, console) for run in begun]
    report, *_ = write_report(begun, folder / "report.html", title=TITLE, figures_to=folder / "figures")
    for sentence in sentences(read_runs(begun)):
        print(f"- {sentence}")
    print(f"report: {report}")
    return succeeded and all(passed)


def _make_corpora(folder: Path, console: Console) -> None:
    """English, and two tokens in turn under the same vocabulary."""
    english = build_sample(folder / "english", vocab_size=VOCABULARY, reuse=True)
    text = folder / "alternating.txt"
    if not text.exists():
        write_text(text, ALTERNATING)
    options = BuildOptions(tokenizer=str(folder / "english" / TOKENIZER))
    alternating = build_corpus(folder / "alternating", [str(text)], options, progress=False)
    for corpus, what in ((english, "of English"), (alternating, "that alternate")):
        _print(console, f"corpus: {corpus.tokens:,} tokens {what} in {corpus.folder}")


def _audited(run: Path, console: Console) -> bool:
    """Audit a run, unless it was audited at its present length; True if it passed."""
    evidence, verdict = run / EVIDENCE_FILE, run / AUDIT
    if verdict.exists() and verdict.stat().st_mtime >= evidence.stat().st_mtime:
        return read_json(verdict)["passed"]
    audit = audit_run(run, progress=False)
    save_audit(audit)
    result = "every row as planned" if audit.passed else f"{audit.n_differences:,} differences"
    _print(console, f"audit of {run.name}: {sum(audit.checks.values()):,} comparisons, {result}")
    return audit.passed


def _print(console: Console, message: str) -> None:
    console.print(message, highlight=False, soft_wrap=True)
