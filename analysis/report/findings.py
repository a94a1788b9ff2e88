"""What a set of runs shows: a verdict for each run and task, comparisons of runs, and the main findings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from analysis.figures.accumulation import accumulation_table, measure_of
from analysis.figures.measures import AUC
from analysis.read.conditions import RATE_KEYS, beside, schedule_label
from analysis.read.runs import LEARNED_ABOVE, Accuracy, Run, label_tasks
from analysis.report.page import Table
from olmo_inject.audit import NO_EVIDENCE

MOST = 5  # findings in a report, at most
AS_EXPECTED, AGAINST, NO_DIFFERENCE = "as expected", "against expectation", "the 95% intervals overlap"


@dataclass(frozen=True)
class Comparison:
    """Two runs that differ in one thing. The second is expected to be less accurate.

    Attributes:
        task: name of the task.
        differ_in: `model size`, `frequency` or `gap`.
        runs: the two runs.
        accuracies: their last accuracies.
    """

    task: str
    differ_in: str
    runs: tuple[Run, Run]
    accuracies: tuple[Accuracy, Accuracy]

    @property
    def result(self) -> str:
        """Which run is more accurate, or that their 95% intervals overlap."""
        expected, other = self.accuracies
        if other.low > expected.high:
            return AGAINST
        return AS_EXPECTED if expected.low > other.high else NO_DIFFERENCE


def sentences(runs: Sequence[Run]) -> list[str]:
    """At most five findings: doubts about the runs, what bursts left, what was learned, then clear comparisons."""
    return [*_doubts(runs), *_accumulated(runs), *_learned(runs), *_stands_out(runs)][:MOST]


def verdicts(runs: Sequence[Run]) -> Table:
    """A table of whether each run learned each task."""
    rows = [
        {
            "run": run.name,
            "task": task.name,
            "verdict": verdict(run, task.name),
            "accuracy (95% CI)": "" if (accuracy := run.accuracy(task.name)) is None else str(accuracy),
            "model": run.size,
            "injected": schedule_label(run, task.name),
            "steps": steps_label(run),
            "audit": audit_label(run),
        }
        for run in runs
        for task in run.tasks
    ]
    return Table("Verdicts", rows, ("run", "model", "task", "injected", "verdict", "audit"))


def verdict(run: Run, task: str) -> str:
    """Whether a run learned a task, or why there is no verdict."""
    accuracy, built = run.accuracy(task), run.task(task)
    if built is not None and not built.is_triples:
        return "no criterion"
    if accuracy is None or built is None:
        return "not evaluated"
    learned = run.learned(task)
    if learned is None:
        return "mirrors only" if built.config.kind in LEARNED_ABOVE else "no criterion"
    if learned:
        return "learned"
    return "not above majority" if accuracy.low <= built.majority_accuracy else "not learned"


def steps_label(run: Run) -> str:
    """Steps done, and the planned number if the run is not finished."""
    return f"{run.steps_done:,}" + ("" if run.finished else f" of {run.experiment.steps:,}")


def audit_label(run: Run) -> str:
    """The verdict of the last audit."""
    if run.audit is None:
        return "not audited"
    since = run.own_steps.start + run.audit["steps"] < run.steps_done
    return run.audit["verdict"] + (", before it was trained further" if since else "")


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """All pairs that differ in the gap alone, and pairs that differ in size or frequency and contradict expectation."""
    compared = []
    for task in label_tasks(runs):
        measured = [run for run in runs if run.accuracy(task) is not None]
        even = [run for run in measured if _is_even(run, task)]
        pairs = [pair for a, b in itertools.combinations(even, 2) if (pair := _even_pair(a, b, task)) is not None]
        compared += [pair for pair in pairs if pair.result == AGAINST]
        compared += _gap_pairs(measured, task)
    return compared


def comparison_table(runs: Sequence[Run]) -> Table:
    """The comparisons."""
    rows = [
        {
            "task": pair.task,
            "differ in": pair.differ_in,
            "expected better": _described(pair.runs[0], pair.task),
            "accuracy (95% CI)": str(pair.accuracies[0]),
            "expected worse": _described(pair.runs[1], pair.task),
            "its accuracy (95% CI)": str(pair.accuracies[1]),
            "result": pair.result,
        }
        for pair in comparisons(runs)
    ]
    title = "Comparisons: all runs that differ in the gap alone, and all results that contradict expectation"
    return Table(title, rows, ("task", "differ in", "expected better", "expected worse", "result"))


def _doubts(runs: Sequence[Run]) -> Iterator[str]:
    """Runs with a failed audit, and runs that are not finished."""
    audited = [(run.name, run.audit) for run in runs if run.audit is not None]
    if different := [name for name, audit in audited if not audit["passed"] and audit["verdict"] != NO_EVIDENCE]:
        yield f"The audit found differences in {', '.join(different)}: the model was not given what the plan says."
    if cut := [
        f"{run.name} ({run.steps_done:,} of {run.experiment.steps:,} steps)" for run in runs if not run.finished
    ]:
        yield f"Not trained to the end: {', '.join(cut)}."


def _accumulated(runs: Sequence[Run]) -> Iterator[str]:
    """What bursts have left in each model, where several run beside the same or another text."""
    for task in label_tasks(runs):
        table = accumulation_table(runs, task)
        table = table.loc[table["accumulated"].notna()] if len(table) else table
        if len(table) < 2:
            continue
        measure = "AUC" if measure_of(runs, task) is AUC else "accuracy"
        levels = [
            ", ".join(f"{row['accumulated']:.2f} {row['model']}" for row in group.to_dict("records"))
            + f" beside {text}"
            for text, group in table.groupby("text", sort=False)
        ]
        yield f"{task}: {measure} on unmirrored pairs just before a burst: {'; '.join(levels)}."


def _learned(runs: Sequence[Run]) -> Iterator[str]:
    """How many runs learned each task, and which run is best."""
    for task in label_tasks(runs):
        judged = [run for run in runs if run.learned(task) is not None]
        if not judged:
            continue
        accuracies = {run.name: accuracy for run in judged if (accuracy := run.accuracy(task)) is not None}
        best = max(accuracies, key=lambda name: accuracies[name].value)
        count = sum(run.learned(task) is True for run in judged)
        if len(judged) == 1:
            yield f"{task}: {verdict(judged[0], task)}. The accuracy is {accuracies[best]}."
        else:
            yield (
                f"{task}: learned in {count or 'none'} of {len(judged)} runs. The highest accuracy is "
                f"{accuracies[best]}, of {best}."
            )


def _stands_out(runs: Sequence[Run]) -> Iterator[str]:
    """Comparisons with a clear result, then the frequencies between which a model size begins to learn."""
    ranked = sorted(comparisons(runs), key=lambda pair: pair.result != AGAINST)
    for pair in ranked:
        if pair.result != NO_DIFFERENCE:
            (a, b), (x, y) = pair.runs, pair.accuracies
            better, worse = ((b, y), (a, x)) if pair.result == AGAINST else ((a, x), (b, y))
            yield (
                f"{pair.task}, {pair.result}: {better[0].name} is more accurate than {worse[0].name} "
                f"(they differ in {pair.differ_in}): {better[1]} against {worse[1]}."
            )
    for task in label_tasks(runs):
        even = [run for run in runs if _is_even(run, task)]
        text_of = beside(even)
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in even:
            groups.setdefault((run.size, text_of[run]), []).append(run)
        for (size, text), group in groups.items():
            if (found := _between_rates(group, task)) is not None:
                yield f"{size} learned the task {task}{f' {text}' if text else ''} {found}."


def _between_rates(runs: Sequence[Run], task: str) -> str | None:
    """The frequencies between which runs begin to learn, with how many of them did; None if there is no such place."""
    by_rate: dict[Fraction, list[bool]] = {}
    for run in runs:
        if (learned := run.learned(task)) is not None:
            by_rate.setdefault(run.frequency(task).per_batch, []).append(learned)
    learned = [rate for rate, of in by_rate.items() if any(of)]
    failed = [rate for rate, of in by_rate.items() if not any(of)]
    if not learned or not failed or max(failed) > min(learned):
        return None
    first = by_rate[min(learned)]
    runs_there = f" (in {sum(first)} of {len(first)} runs)" if len(first) > 1 else ""
    several = len(by_rate[max(failed)])
    runs_below = f" (in none of {several} runs)" if several > 1 else ""
    return f"at {min(learned)} instances per batch{runs_there} and not at {max(failed)}{runs_below}"


def _is_even(run: Run, task: str) -> bool:
    """Whether the task is evenly injected and has a criterion for "learned"."""
    built = run.task(task)
    return run.evenly_injected(task) and built is not None and built.config.kind in LEARNED_ABOVE


def _even_pair(a: Run, b: Run, task: str) -> Comparison | None:
    """Two evenly injected runs that differ in size or frequency alone, the one expected to be better first."""
    as_often = a.frequency(task) == b.frequency(task)
    if as_often and a.parameters != b.parameters and _differ_in(a, b, "model.", "model_name"):
        return _comparison(task, "model size", *sorted((a, b), key=lambda run: -run.parameters))
    if not as_often and a.size == b.size and _differ_in(a, b, *_schedules_of(a, task)):
        return _comparison(task, "frequency", *sorted((a, b), key=lambda run: -run.frequency(task).per_batch))
    return None


def _gap_pairs(runs: Sequence[Run], task: str) -> Iterator[Comparison]:
    """Runs of equal size and long-run frequency that differ in the gap alone, the shorter gap first.

    In a run that injects the task in a part of its steps, the gap is not all that differs.
    """
    throughout = [run for run in runs if run.injected_throughout(task) and run.gap(task) is not None]
    spread = sorted(throughout, key=lambda run: run.gap(task) or 0)
    for a, b in itertools.combinations(spread, 2):
        same = (a.size, a.frequency(task)) == (b.size, b.frequency(task)) and a.gap(task) != b.gap(task)
        if same and _differ_in(a, b, *_schedules_of(a, task)):
            yield _comparison(task, "gap", a, b)


def _schedules_of(run: Run, task: str) -> list[str]:
    """The beginnings of the settings that say when and how often a task is injected."""
    numbers = [number for number, entry in enumerate(run.experiment.injections) if entry.task == task]
    return [f"injections.{number}.{key}" for number in numbers for key in RATE_KEYS]


def _differ_in(a: Run, b: Run, *settings: str) -> bool:
    """Whether two runs of one text and length differ in no other settings; the arguments are beginnings of names."""
    read = ("corpus", "order")  # these fingerprints tell texts apart, wherever their files are
    texts = [
        {name: value for name, value in run.plan["fingerprints"].items() if name.startswith(read)} for run in (a, b)
    ]
    if texts[0] != texts[1] or a.experiment.steps != b.experiment.steps:
        return False
    differing = {key for key, _ in a.settings.items() ^ b.settings.items()}
    return all(key.startswith(settings) for key in differing)


def _comparison(task: str, differ_in: str, a: Run, b: Run) -> Comparison:
    x, y = a.accuracy(task), b.accuracy(task)
    assert x is not None
    assert y is not None
    return Comparison(task, differ_in, (a, b), (x, y))


def _described(run: Run, task: str) -> str:
    return f"{run.name} ({run.size}, {schedule_label(run, task)})"
