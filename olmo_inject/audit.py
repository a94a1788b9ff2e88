"""Compare the rows that a run's model was given with those that corpus, order and plan define.

The trainer wrote the evidence from the tensors that it passed to the model. The audit recomputes everything from the
experiment in the run folder, without the loader. It uses the same `Plan`, `InjectedCorpus` and stored shuffle as the
run, so it finds errors between the plan and the model. Errors in the plan are left to the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from olmo_inject.config import Experiment, StreamExperiment
from olmo_inject.corpus.splice import Splice
from olmo_inject.data import ExperimentData, TaskPlan
from olmo_inject.errors import UserError
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.injection.placement import EOS
from olmo_inject.runs import evidence
from olmo_inject.runs.export import Export, read_export
from olmo_inject.runs.read import (
    AUDIT,
    EVIDENCE_FILE,
    EXPERIMENT,
    EXPORT,
    INDICES,
    LISTS,
    PLAN,
    SAVED,
    TASKS,
    SavedRun,
    load_run,
    read_evidence,
    read_saved,
)
from olmo_inject.runs.same_run import CONTENTS, fingerprints
from olmo_inject.tasks import Task
from olmo_inject.tasks.registry import rebuilds
from olmo_inject.training.loss import count_targets
from olmo_inject.utils.files import write_json
from olmo_inject.utils.paths import distinct_ends
from olmo_inject.utils.progress import show_progress
from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted

DIFFERENCES_KEPT = 20
NO_EVIDENCE = "no evidence yet"
VERSION = 2  # increased when an audit compares other things, so that kept results of jobs are not mistaken for new ones


@dataclass
class Audit:
    """The result for one run.

    Attributes:
        run: the run folder.
        steps: number of steps with evidence.
        planned: number of steps of the finished run.
        labels: LABELs of each task that reached the loss, as counted in training.
        overrides: number of rows whose mask was lifted for the spliced tokens.
        checks: number of comparisons by kind.
        host: whether whole rows were compared. If another loader reads the rows, only spliced tokens are compared.
        differences: the first differences, in words.
        n_differences: number of all differences.
    """

    run: str
    steps: int = 0
    planned: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    overrides: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    host: bool = True
    differences: list[str] = field(default_factory=list)
    n_differences: int = 0

    @property
    def passed(self) -> bool:
        """Whether there was something to compare and everything agreed."""
        return self.n_differences == 0 and self.steps > 0

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.n_differences:
            return counted(self.n_differences, "difference")
        if not self.steps:
            return NO_EVIDENCE
        identical = "identical" if self.host else "identical in what is injected"
        if self.steps >= self.planned:
            return identical
        return f"{identical} so far ({self.steps:,} of {self.planned:,} steps)"

    def record(self) -> dict[str, Any]:
        """The result as plain values."""
        return vars(self) | {"passed": self.passed, "verdict": self.verdict}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Audit:
        """The result that `record` gave."""
        fields = {name: value for name, value in record.items() if name not in ("passed", "verdict")}
        counted: dict[str, Any] = {name: Counter(fields[name]) for name in ("labels", "checks")}
        return cls(**fields | counted)

    def compare(self, check: str, where: str, recorded: Any, expected: Any) -> None:
        """Count a comparison.

        Args:
            check: kind of comparison.
            where: step, row or file.
            recorded: by the run.
            expected: recomputed.
        """
        self.checks[check] += 1
        if recorded != expected:
            self._differs(f"{where}: {check}: the run says {recorded}, recomputed {expected}")

    def require(self, check: str, holds: bool, difference: str) -> None:
        """Count a check.

        Args:
            check: kind of comparison.
            holds: whether the run passes.
            difference: what is wrong if it does not.
        """
        self.checks[check] += 1
        if not holds:
            self._differs(f"{check}: {difference}")

    def _differs(self, difference: str) -> None:
        self.n_differences += 1
        if len(self.differences) < DIFFERENCES_KEPT:
            self.differences.append(difference)


def audit_run(folder: Path, *, progress: bool = True, corpus: Path | None = None) -> Audit:
    """Recompute every step of a run and compare it with the run's evidence.

    Args:
        folder: the run folder.
        progress: whether to show progress.
        corpus: where the run's corpus is now, if it has moved.

    Raises:
        UserError: the folder is not a run, a file of it is damaged, or its corpus cannot be read.
    """
    run = load_run(folder, corpus)
    experiment, described, begun = run.experiment, run.plan, run.own_steps.start
    data = run.build_data() if run.has_host else run.build_plan()
    audit = Audit(str(folder), host=run.has_host)
    recorded = described["fingerprints"]
    for name, fingerprint in fingerprints(data).items():
        if name in recorded or name != CONTENTS:
            audit.compare("fingerprints", name, recorded.get(name), fingerprint)
    _compare_tasks(audit, run, data)
    if isinstance(data, ExperimentData):
        data.share_order(range(experiment.steps))
    lines = list(read_evidence(folder))
    audit.steps = len(lines)
    audit.planned = len(run.own_steps)
    first = lines[0]["step"] if lines else begun
    audit.compare("steps without a gap", "first line", first, begun)
    covered = _covered_by_checkpoints(run, first)
    audit.compare("steps without a gap", "up to the last checkpoint", first + len(lines) >= covered, True)
    with show_progress(f"auditing {folder.name}", len(lines), "steps", enabled=progress) as meter:
        for number, line in enumerate(lines):
            audit.compare("steps without a gap", f"line {number + 1}", line["step"], first + number)
            if 0 <= line["step"] < experiment.steps:
                _compare_step(audit, experiment.sequence_length, data, line)
            else:
                audit.compare("steps without a gap", f"line {number + 1}", line["step"], f"below {experiment.steps}")
            meter.advance()
    if (folder / EXPORT).is_file():
        _compare_export(audit, read_export(folder), lines)
    if isinstance(experiment, Experiment) and experiment.train.save_data_indices:
        # A kill loses the lines since the last flush; those before the last checkpoint must all be there.
        needed = range(described.get("indices_from", begun), covered)
        _compare_indices(audit, folder, data, range(first, first + len(lines)), needed)
    return audit


def what_is_audited(folder: Path, corpus: Path | None) -> dict[str, Any]:
    """What decides the result of an audit, for results that are kept: the run's files by length and time of change.

    Args:
        folder: the run folder.
        corpus: as in `audit_run`.
    """
    files = [folder / name for name in (EXPERIMENT, PLAN, EVIDENCE_FILE, EXPORT, SAVED)]
    files += [path for name in (TASKS, LISTS, INDICES) for path in sorted((folder / name).glob("*"))]
    stats = {str(path.relative_to(folder)): path.stat() for path in files if path.is_file()}
    return {
        "audit": VERSION,
        "run": str(folder),
        "corpus": None if corpus is None else str(corpus),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "checkpoints": sorted(path.name for path in folder.glob("step*")),
    }


def _covered_by_checkpoints(run: SavedRun, first: int) -> int:
    """The step of the last checkpoint, up to which no evidence may be missing; `first` if there is none."""
    if isinstance(run.experiment, StreamExperiment):
        saved = read_saved(run.folder)
        return first if saved is None else saved["step"]
    from olmo_inject.training.checkpoints.on_disk import latest

    last = latest(run.folder)
    return first if last is None else last.step


def _compare_export(audit: Audit, export: Export, lines: list[dict[str, Any]]) -> None:
    """Compare the files of an exported stream with the evidence, which has been compared with the plan."""
    audit.planned = len(export.steps)
    audit.compare("steps without a gap", "exported", len(lines), len(export.steps))
    for line in lines:
        step, size = line["step"], export.batch_size
        if step in export.steps:
            positions, tokens = np.arange(step * size, (step + 1) * size), export.step(step).astype(np.int64)
            audit.compare("tokens in the files", f"step {step}", evidence.step_hash(positions, tokens), line["tokens"])


def _compare_tasks(audit: Audit, run: SavedRun, data: TaskPlan) -> None:
    """Compare the saved tasks with the experiment's. Built-in kinds are rebuilt; a run's own code is not executed."""
    taken: set[int] = set()
    for config, saved in zip(run.experiment.tasks, run.tasks, strict=True):
        if not rebuilds(config.kind):
            audit.compare("fingerprints", f"saved task {saved.name}", saved.config, config)
        else:
            built = Task.build(config, data.source.vocabulary, taken)
            audit.compare("fingerprints", f"saved task {saved.name}", saved.fingerprint, built.fingerprint)
        taken |= set(saved.tokens.tolist())


def save_audit(audit: Audit) -> None:
    """Write the result to the run folder, for reports.

    Raises:
        UserError: the folder cannot be written.
    """
    write_json(Path(audit.run) / AUDIT, audit.record())


def _compare_step(audit: Audit, length: int, data: TaskPlan, line: dict[str, Any]) -> None:
    step, size = line["step"], data.plan.batch_size
    where = f"step {step}"
    positions = data.plan.positions(step)
    audit.compare("rows", where, line["rows"], size)
    if isinstance(data, ExperimentData):
        batch = data.corpus.rows(positions)
        tokens = batch["input_ids"].numpy()
        audit.compare("tokens given to the model", where, line["tokens"], evidence.step_hash(positions, tokens))
        audit.compare("targets", where, line["targets"], count_targets(batch))
        overrides = int(batch["mask_overridden"].sum()) if "mask_overridden" in batch else 0
        audit.compare("masks lifted", where, line["overrides"], overrides)
        spans = data.corpus.spans(positions)
    else:
        tokens = np.zeros((size, length), np.int64)
        spans = Splice(data.plan, data.source.vocabulary.eos_id).into(tokens, positions)
        rows = np.unique(spans.row)
        expected = evidence.step_hash(positions[rows], tokens[rows])
        audit.compare("tokens injected into what the model was given", where, line.get("injected"), expected)
    _compare_rows(audit, data, where, spans, tokens)
    tasks = data.plan.tasks
    for task, expected in zip(tasks, spans.answers_of_tasks(len(tasks)), strict=True):
        audit.compare("answer tokens in the loss", f"{where}, {task.name}", line["labels"].get(task.name, 0), expected)
        audit.labels[task.name] += line["labels"].get(task.name, 0)
    audit.overrides += line["overrides"]


def _compare_rows(audit: Audit, data: TaskPlan, where: str, spans: InjectedSpans, tokens: np.ndarray) -> None:
    """Compare the spliced rows: the instance, its EOS, and that it is in the train half."""
    columns = (spans.span_row, spans.start, spans.length, spans.skipped, spans.entry, spans.instance)
    for row, start, length, skipped, number, instance in zip(*(column.tolist() for column in columns), strict=True):
        entry = data.plan.entries[number]
        task, placed = entry.task, f"{where}, row {row}"
        before, after = ([data.source.vocabulary.eos_id] * n for n in EOS[entry.placement.eos])
        whole = [*before, *task.instances[instance].tolist(), *after]
        spliced = tokens[row, start : start + length].tolist()
        audit.compare("spliced rows", placed, spliced, whole[skipped : skipped + length])
        place = int(np.searchsorted(task.train_ids, instance))
        in_train = place < len(task.train_ids) and task.train_ids[place] == instance
        audit.compare("instances of the train half", placed, bool(in_train), True)


def _compare_indices(audit: Audit, folder: Path, data: TaskPlan, steps: range, needed: range) -> None:
    """Check that the ranks' index files of ai2-olmo together hold each position of each step exactly once.

    Args:
        audit: counts the comparisons.
        folder: the run folder.
        data: the run's plan.
        steps: steps with evidence; index lines of later steps are not checked.
        needed: steps of which no position may be missing.
    """
    files = sorted((folder / INDICES).glob("*.tsv"))
    size = data.plan.batch_size
    seen = np.zeros((len(steps), size), np.uint8)
    for path in files:
        for step, positions in _index_lines(path):
            if step >= steps.stop:
                continue
            within = positions - steps.start * size
            inside = (within >= 0) & (within < seen.size) & (positions // size == step)
            audit.compare("data-indices", f"{path.name}, step {step}", bool(inside.all()), True)
            np.add.at(seen.reshape(-1), within[inside], 1)
    required = seen[max(0, needed.start - steps.start) : max(0, needed.stop - steps.start)]
    missing, repeated = int((required == 0).any(1).sum()), int((seen > 1).any(1).sum())
    audit.require("data-indices", not missing, f"positions missing in {counted(missing, 'step')}")
    audit.require("data-indices", not repeated, f"positions given twice in {counted(repeated, 'step')}")


def _index_lines(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # cut off by a kill
            try:
                step, *positions = map(int, line.split("\t"))
            except ValueError:
                raise UserError(f"{path}: a line holds something other than numbers") from None
            yield step - 1, np.array(positions)  # ai2-olmo counts steps from 1


def print_audits(audits: list[Audit], console: Console) -> None:
    """Print the verdict of each run, and the differences."""
    table = Table(title="Audit", title_justify="left")
    for column in ("run", "steps", "comparisons", "answer tokens in the loss", "masks lifted", "verdict"):
        table.add_column(column, justify="left" if column in ("run", "verdict") else "right", overflow="fold")
    names = distinct_ends(audit.run for audit in audits)
    for audit in audits:
        labels = ", ".join(f"{name} {count:,}" for name, count in audit.labels.items()) or "0"
        comparisons = f"{sum(audit.checks.values()):,}"
        table.add_row(names[audit.run], f"{audit.steps:,}", comparisons, labels, str(audit.overrides), audit.verdict)
    console.print(table, markup=False)
    for audit in audits:
        for difference in audit.differences:
            console.print(f"{audit.run}: {difference}", markup=False, highlight=False)
        if audit.n_differences > len(audit.differences):
            console.print(f"{audit.run}: and {audit.n_differences - len(audit.differences):,} more", markup=False)
