"""Audit: what a run's model was given, against what corpus, order and plan say it should have been.

The evidence was written by the trainer from the tensors it handed to the model; everything here is
recomputed from the run folder's experiment, without the loader and without the run's stored order. It uses the same
`Plan` and `InjectedCorpus` as the run: it finds what went wrong between the plan and the model, not a plan that is
itself wrong, which is for the tests.
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
from olmo_inject.files import write_json
from olmo_inject.progress import show_progress
from olmo_inject.runs import evidence
from olmo_inject.runs.export import Export, read_export
from olmo_inject.runs.folder import CONTENTS, fingerprints
from olmo_inject.runs.read import AUDIT, EXPORT, SavedRun, load_run, read_evidence, read_saved
from olmo_inject.tasks import Task
from olmo_inject.tasks.registry import is_own_code
from olmo_inject.terminal import Console

DIFFERENCES_KEPT = 20


@dataclass
class Audit:
    """The outcome for one run.

    Attributes:
        run: the run folder.
        steps: steps of which there is evidence.
        planned: how many there are once the run is finished.
        labels: LABELs per task that reached the loss, as counted in training.
        overrides: masks of the host that splicing lifted.
        checks: what was compared, and in how many steps.
        host: whether whole rows were compared; where somebody else loads them, what is spliced into them is.
        differences: the first of them, in words.
        n_differences: how many there were.
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
        """Whether everything agreed, and there was something to compare."""
        return self.n_differences == 0 and self.steps > 0

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.steps:
            return "no evidence yet"
        if not self.passed:
            return f"{self.n_differences:,} differences"
        identical = "identical" if self.host else "identical in what is injected"
        if self.steps >= self.planned:
            return identical
        return f"{identical} so far ({self.steps:,} of {self.planned:,} steps)"

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self) | {"passed": self.passed, "verdict": self.verdict}

    def compare(self, check: str, where: str, recorded: Any, expected: Any) -> None:
        """Note one comparison."""
        self.checks[check] += 1
        if recorded != expected:
            self._differs(f"{where}: {check}: the run says {recorded}, recomputed {expected}")

    def _differs(self, difference: str) -> None:
        self.n_differences += 1
        if len(self.differences) < DIFFERENCES_KEPT:
            self.differences.append(difference)


def audit_run(folder: Path, *, progress: bool = True, corpus: Path | None = None) -> Audit:
    """Recompute every step of a run and compare it with the run's evidence.

    Args:
        folder: the run's.
        progress: whether to show how far it is.
        corpus: where its corpus is now, if it has moved.

    Raises:
        UserError: the folder is not a run, a file of it is damaged, or its corpus cannot be read.
    """
    run = load_run(folder, corpus)
    experiment, described = run.experiment, run.plan
    data = run.build_data() if run.has_host else run.build_plan()
    audit = Audit(str(folder), host=run.has_host)
    recorded = described["fingerprints"]
    for name, found in fingerprints(data).items():
        if name in recorded or name != CONTENTS:
            audit.compare("fingerprints", name, recorded.get(name), found)
    _compare_tasks(audit, run, data)
    lines = list(read_evidence(folder))
    audit.steps = len(lines)
    begun = described.get("first_step", 0)  # a branch's is not 0
    audit.planned = experiment.steps - begun
    first = lines[0]["step"] if lines else begun
    audit.compare("steps without a gap", "first line", first, begun)
    vouched = _vouched(run, first)
    audit.compare("steps without a gap", "up to the last checkpoint", first + len(lines) >= vouched, True)
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
        # What a killed run had not brought to its disk is missing at either end; a checkpoint vouches for the rest.
        _compare_indices(audit, folder, data, first, len(lines), vouched - first)
    return audit


def _vouched(run: SavedRun, first: int) -> int:
    """The last checkpoint's step, up to which evidence cannot be missing; `first` where there is none."""
    if isinstance(run.experiment, StreamExperiment):
        saved = read_saved(run.folder)
        return first if saved is None else saved["step"]
    from olmo_inject.training.checkpoints.save_restore import latest

    last = latest(run.folder)
    return first if last is None else last.step


def _compare_export(audit: Audit, export: Export, lines: list[dict[str, Any]]) -> None:
    """What the files of an exported stream hold, against the evidence, which was compared with the plan."""
    audit.planned = len(export.steps)
    audit.compare("steps without a gap", "exported", len(lines), len(export.steps))
    for line in lines:
        step, size = line["step"], export.batch_size
        if step in export.steps:
            positions, tokens = np.arange(step * size, (step + 1) * size), export.step(step).astype(np.int64)
            audit.compare("tokens in the files", f"step {step}", evidence.step_hash(positions, tokens), line["tokens"])


def _compare_tasks(audit: Audit, run: SavedRun, data: TaskPlan) -> None:
    """The saved tasks against the experiment's; those of built-in kinds are built anew, no code of the run's is run."""
    taken: set[int] = set()
    for config, saved in zip(run.experiment.tasks, run.tasks, strict=True):
        if is_own_code(config.kind):
            audit.compare("fingerprints", f"saved task {saved.name}", saved.config, config)
        else:
            built = Task.build(config, data.source.vocabulary, taken)
            audit.compare("fingerprints", f"saved task {saved.name}", saved.fingerprint, built.fingerprint)
        taken |= set(saved.tokens.tolist())


def save_audit(audit: Audit) -> None:
    """Leave the verdict in the run folder, where a report finds it.

    Raises:
        UserError: the folder cannot be written.
    """
    write_json(Path(audit.run) / AUDIT, audit.record())


def _compare_step(audit: Audit, length: int, data: TaskPlan, line: dict[str, Any]) -> None:
    step, size = line["step"], data.plan.batch_size
    where = f"step {step}"
    positions = np.arange(step * size, (step + 1) * size)
    audit.compare("rows", where, line["rows"], size)
    if isinstance(data, ExperimentData):
        batch = data.corpus.rows(positions)
        tokens = batch["input_ids"].numpy()
        audit.compare("tokens given to the model", where, line["tokens"], evidence.step_hash(positions, tokens))
        audit.compare("targets", where, line["targets"], _targets(batch))
        overrides = int(batch["mask_overridden"].sum()) if "mask_overridden" in batch else 0
        audit.compare("masks lifted", where, line["overrides"], overrides)
    else:
        tokens = np.zeros((size, length), np.int64)
        injected = Splice(data.plan, data.source.vocabulary.eos_id)(tokens, step, np.arange(size)).any(axis=1)
        expected = evidence.step_hash(positions[injected], tokens[injected])
        audit.compare("tokens injected into what the model was given", where, line.get("injected"), expected)
    planned = data.plan.at(step)
    _compare_rows(audit, data, where, planned, tokens)
    for number, task in enumerate(data.plan.tasks):
        expected = int((planned.task == number).sum())
        audit.compare("LABELs in the loss", f"{where}, {task.name}", line["labels"].get(task.name, 0), expected)
        audit.labels[task.name] += line["labels"].get(task.name, 0)
    audit.overrides += line["overrides"]


def _targets(batch: dict[str, Any]) -> int:
    """How many tokens of a batch are targets: all but the first of each row, less what masks leave out."""
    counts = np.ones(batch["input_ids"].shape, bool)
    if "label_mask" in batch:
        counts &= batch["label_mask"].numpy()
    if "instance_mask" in batch:
        counts &= batch["instance_mask"].numpy()[:, None]
    return int(counts[:, 1:].sum())


def _compare_rows(audit: Audit, data: TaskPlan, where: str, planned: Any, tokens: np.ndarray) -> None:
    """The spliced rows themselves: the instance, its end of document, and the train half it comes from."""
    for row, number, instance in zip(*(column.tolist() for column in planned), strict=True):
        task = data.plan.tasks[number]
        expected = [*task.instances[instance].tolist(), data.source.vocabulary.eos_id]
        audit.compare("spliced rows", f"{where}, row {row}", tokens[row, :4].tolist(), expected)
        place = int(np.searchsorted(task.train_ids, instance))
        in_train = place < len(task.train_ids) and task.train_ids[place] == instance
        audit.compare("instances of the train half", f"{where}, row {row}", bool(in_train), True)


def _compare_indices(audit: Audit, folder: Path, data: TaskPlan, first: int, steps: int, vouched: int) -> None:
    """ai2-olmo's own record of what each rank was given: together, each step's positions exactly once.

    Args:
        audit: takes the comparisons.
        folder: the run's.
        data: its plan.
        first: the first step with evidence.
        steps: how many have it; what is recorded beyond them is not looked at.
        vouched: of how many, from the first, nothing may be missing.
    """
    files = sorted((folder / "data-indices").glob("*.tsv"))
    size = data.plan.batch_size
    seen = np.zeros(steps * size, np.uint8)
    for path in files:
        for step, positions in _index_lines(path):
            if step >= first + steps:
                continue
            within = positions - first * size
            inside = (within >= 0) & (within < len(seen)) & (positions // size == step)
            audit.compare("data-indices", f"{path.name}, step {step}", bool(inside.all()), True)
            np.add.at(seen, within[inside], 1)
    missing, repeated = int((seen[: vouched * size] == 0).sum()), int((seen > 1).sum())
    audit.compare("data-indices", "positions missing", missing, 0)
    audit.compare("data-indices", "positions given twice", repeated, 0)


def _index_lines(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # cut off by a kill
            try:
                step, *positions = map(int, line.split("\t"))
            except ValueError:
                raise UserError(f"{path}: a line holds something else than numbers") from None
            yield step - 1, np.array(positions)  # ai2-olmo counts steps from 1


def print_audits(audits: list[Audit], console: Console) -> None:
    """Print a verdict per run, and the differences."""
    table = Table(title="Audit", title_justify="left")
    for column in ("run", "steps", "comparisons", "LABELs in the loss", "masks lifted", "verdict"):
        table.add_column(column, justify="left" if column in ("run", "verdict") else "right", overflow="fold")
    for audit in audits:
        labels = ", ".join(f"{name} {count:,}" for name, count in audit.labels.items()) or "0"
        comparisons = f"{sum(audit.checks.values()):,}"
        table.add_row(
            Path(audit.run).name, f"{audit.steps:,}", comparisons, labels, str(audit.overrides), audit.verdict
        )
    console.print(table, markup=False)
    for audit in audits:
        for difference in audit.differences:
            console.print(f"{audit.run}: {difference}", markup=False, highlight=False)
        if audit.n_differences > len(audit.differences):
            console.print(f"{audit.run}: and {audit.n_differences - len(audit.differences):,} more", markup=False)
