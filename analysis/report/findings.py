"""What a set of runs shows, in sentences computed from its numbers, also where it contradicts expectation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from analysis.read.runs import LEARNED_ABOVE, Run, task_names
from olmo_inject.words import counted


def sentences(runs: Sequence[Run]) -> list[str]:
    """The findings, the most general first."""
    found = [_what_there_is(runs), *unfinished(runs)]
    for task in task_names(runs):
        measured = [run for run in runs if run.accuracy(task) is not None]
        if not measured:
            found.append(f"{task} was not evaluated in any run.")
            continue
        found += _learned_by_schedule(measured, task)
        found += _by_frequency(measured, task)
        found += _against_expectation(measured, task)
        found += _between_gaps(measured, task)
    if any(run.learned(task) is False for run in runs for task in task_names(runs)):
        found.append(
            "Not learned means: not in these steps, at this learning rate. More steps, or the task alone, may do it."
        )
    found += _mirrors(runs)
    found += _language_model(runs)
    found += _audits(runs)
    return found


def unfinished(runs: Sequence[Run]) -> Iterator[str]:
    """A sentence on the runs that were not trained to their end, if there are any."""
    if cut := [f"{run.name} ({run.steps_done:,} of {run.experiment.steps:,})" for run in runs if not run.finished]:
        yield f"Not trained to the end: {', '.join(cut)}. Their numbers are those of their last evaluation."


def _what_there_is(runs: Sequence[Run]) -> str:
    sizes = list(dict.fromkeys(run.size for run in runs))
    schedules = {run.schedule_label(task.name) for run in runs for task in run.tasks}
    return (
        f"{counted(len(runs), 'run')} of {counted(len(sizes), 'model size')} ({', '.join(sizes)}) under "
        f"{counted(len(schedules), 'injection schedule')}."
    )


def _learned_by_schedule(runs: Sequence[Run], task: str) -> Iterator[str]:
    """For every schedule, which sizes learned the task and which did not."""
    for label, group in _grouped(runs, task).items():
        verdicts = [(run, run.learned(task)) for run in group]
        if all(verdict is None for _, verdict in verdicts):
            accuracies = ", ".join(_scored(run, task) for run in group)
            has_one = (built := group[0].task(task)) is not None and built.config.kind in LEARNED_ABOVE
            why = (
                "the mirror of every test pair was trained on, so whether it was learned cannot be told"
                if has_one
                else "its kind of task has no criterion for learned"
            )
            yield f"{task} at {label}: {accuracies}; {why}."
            continue
        learned = [run for run, verdict in verdicts if verdict]
        failed = [run for run, verdict in verdicts if verdict is False]
        parts = []
        if learned:
            parts.append("learned by " + ", ".join(_scored(run, task) for run in learned))
        if failed:
            parts.append("not learned by " + ", ".join(_failed(run, task) for run in failed))
        yield f"{task} at {label}: {'; '.join(parts)}."


def _by_frequency(runs: Sequence[Run], task: str) -> Iterator[str]:
    """For every size, the frequencies between which learning sets in."""
    for size, group in itertools.groupby(_even(runs, task), key=lambda run: run.size):
        by_rate = {run.frequency(task).per_batch: run for run in group}
        learned = [rate for rate, run in by_rate.items() if run.learned(task)]
        failed = [rate for rate, run in by_rate.items() if run.learned(task) is False]
        if learned and failed and max(failed) < min(learned):
            yield f"{size} learned {task} at {min(learned)} instances a batch and not at {max(failed)}."


def _against_expectation(runs: Sequence[Run], task: str) -> Iterator[str]:
    """Where a smaller model, or a lower frequency, did better by more than the intervals allow."""
    even = list(_even(runs, task))
    for a, b in itertools.combinations(even, 2):
        x, y = a.accuracy(task), b.accuracy(task)
        assert x is not None
        assert y is not None
        if a.frequency(task) == b.frequency(task) and a.parameters < b.parameters and x.low > y.high:
            yield (
                f"Against expectation: at {a.schedule_label(task)} the smaller {a.size} is more accurate on "
                f"{task} ({x}) than {b.size} ({y})."
            )
        rates = a.frequency(task).per_batch, b.frequency(task).per_batch
        if a.size == b.size and rates[0] < rates[1] and x.low > y.high:
            yield (
                f"Against expectation: {a.size} is more accurate on {task} at {rates[0]} instances a batch "
                f"({x}) than at {rates[1]} ({y})."
            )


def _between_gaps(runs: Sequence[Run], task: str) -> Iterator[str]:
    """Runs of one size and long-run frequency that differ in the gap."""
    spread = sorted((run for run in runs if run.gap(task) is not None), key=lambda run: run.gap(task) or 0)
    for a, b in itertools.combinations(spread, 2):
        same = a.size == b.size and a.frequency(task) == b.frequency(task)
        if not same or a.gap(task) == b.gap(task):
            continue
        x, y = a.accuracy(task), b.accuracy(task)
        assert x is not None
        assert y is not None
        if x.low > y.high:
            how = "was less accurate than"
        elif y.low > x.high:
            how = "against expectation was more accurate than"
        else:
            how = "cannot be told from"
        yield (
            f"At the same long-run frequency, {b.size} with {b.schedule_label(task)} {how} "
            f"{a.schedule_label(task)} on {task}: {y} and {x}."
        )


def _mirrors(runs: Sequence[Run]) -> Iterator[str]:
    """Of each task, what its accuracies leave out, and what they would be with it."""
    for task in task_names(runs):
        pairs = [(run, run.accuracy(task), run.accuracy(task, "accuracy")) for run in runs]
        differing = [(run, of_all) for run, own, of_all in pairs if own and of_all and own.n < of_all.n]
        if differing:
            yield (
                f"Accuracies on {task} are on test pairs whose mirror (TOK2, TOK1) was not trained on. On all test "
                f"pairs: {', '.join(f'{run.name} {of_all}' for run, of_all in differing)}."
            )


def _language_model(runs: Sequence[Run]) -> Iterator[str]:
    best: dict[str, float] = {}
    for run in runs:
        if run.finished and run.lm_loss is not None:
            best[run.size] = min(run.lm_loss, best.get(run.size, run.lm_loss))
    if len(best) > 1:
        losses = ", ".join(f"{size} {loss:.2f}" for size, loss in best.items())
        yield f"Lowest loss on the text itself, in nats a token: {losses}."


def _audits(runs: Sequence[Run]) -> Iterator[str]:
    audited = [run for run in runs if run.audit is not None]
    if not audited:
        yield "No run was audited (`olmo-inject audit`)."
        return
    failed = [run.name for run in audited if not (run.audit or {})["passed"]]
    others = len(runs) - len(audited)
    rest = f"; {others} not audited" if others else ""
    if failed:
        yield f"The audit found differences in {', '.join(failed)}{rest}: these runs are not what the plan says."
    else:
        yield f"The audit of {counted(len(audited), 'run')} found every row as planned{rest}."


def _even(runs: Sequence[Run], task: str) -> Iterator[Run]:
    """Evenly injected runs of a kind of task that has a criterion, by size, then by frequency."""
    for run in runs:
        entry, built = run.injection(task), run.task(task)
        if entry is not None and entry.schedule != "burst" and built is not None and built.config.kind in LEARNED_ABOVE:
            yield run


def _grouped(runs: Sequence[Run], task: str) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (-run.frequency(task).per_batch, run.gap(task) or 0)):
        groups.setdefault(run.schedule_label(task), []).append(run)
    return groups


def _scored(run: Run, task: str) -> str:
    return f"{run.size} {run.accuracy(task)}"


def _failed(run: Run, task: str) -> str:
    """With what the accuracy comes to, where it is no more than can be had from the labels alone."""
    accuracy, built = run.accuracy(task), run.task(task)
    assert accuracy is not None
    assert built is not None
    no_better = accuracy.low <= built.majority_accuracy
    return _scored(run, task) + " (no better than the majority label)" * no_better
