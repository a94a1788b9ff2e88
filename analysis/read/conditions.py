"""What a run injects and what it trains on, in a few words, for legends and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from analysis.read.run_labels import labels
from analysis.read.runs import Run
from olmo_inject.config import InjectionConfig
from olmo_inject.entry_names import task_of_entry
from olmo_inject.runs.folder import settings as all_settings

# Settings that labels name otherwise (model size, text, schedule, steps), and seeds.
NAMED_OTHERWISE = re.compile(r"corpus\.|injections|model_name|train\.max_duration|(.*[._])?seed$")
STEPS = "steps"


def text_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """What each run trains on beside its tasks, and how, in a few words.

    Corpora of one name are told apart by the ends of their paths. Settings follow where runs of one model, schedule and
    text differ in them by more than seeds, such as `english, learning_rate 0.001`.
    """
    texts = _corpus_labels(runs)
    alike: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.size, plan_label(run), texts[run]), []).append(run)
    settings = {run: _deciding(run) for run in runs}
    varied = {
        key: None
        for group in alike.values()
        for key in dict.fromkeys(key for run in group for key in settings[run])
        if len({settings[run].get(key) for run in group}) > 1
    }
    return {run: ", ".join([text, *_in_words(settings[run], varied)]) for run, text in texts.items()}


def _deciding(run: Run) -> dict[str, str]:
    """The settings that a run's training depends on, but for model size, text, schedule and seeds."""
    found = {key: value for key, value in all_settings(run.experiment).items() if not NAMED_OTHERWISE.match(key)}
    return found | {STEPS: f"{run.experiment.steps:,}"}


def _in_words(settings: Mapping[str, str], keys: Iterable[str]) -> list[str]:
    return [f"{key.rpartition('.')[2]} {settings.get(key, 'not set').strip(chr(34))}" for key in keys]


def _corpus_labels(runs: Sequence[Run]) -> dict[Run, str]:
    corpora = {run: run.experiment.corpus for run in runs}
    named = labels((Path(folder).name, folder) for corpus in corpora.values() if (folder := corpus.folder))
    texts = {}
    for run, corpus in corpora.items():
        name = corpus.name or (named[corpus.folder] if corpus.folder else "its own text")
        texts[run] = name if corpus.sequences is None else f"{corpus.sequences:,} sequences of {name}"
    return texts


def schedule_label(run: Run, task: str) -> str:
    """How the run injects `task`, in a few words, such as `10 every 10 batches`; all its entries."""
    labels = [label for name, label in entry_labels(run).items() if task_of_entry(name) == task]
    return "; ".join(labels) or "not injected"


def entry_labels(run: Run) -> dict[str, str]:
    """How the run injects each entry of its plan, in a few words, by the entry's name."""
    planned = run.plan["injections"].items()
    return {
        name: _entry_label(entry, Fraction(each["instances_per_batch"]))
        for entry, (name, each) in zip(run.experiment.injections, planned, strict=True)
    }


def plan_label(run: Run) -> str:
    """How the run injects all its tasks."""
    tasks = list(dict.fromkeys(entry.task for entry in run.experiment.injections))
    if len(tasks) == 1:
        return schedule_label(run, tasks[0])
    return "\n".join(f"{task}: {schedule_label(run, task)}" for task in tasks)


def conditions(runs: Sequence[Run], task: str | None = None) -> dict[Run, str]:
    """What runs differ in beside the model: how each injects `task`, or all tasks, and its text where those differ."""
    texts = beside(runs)
    return {
        run: " ".join(filter(None, (plan_label(run) if task is None else schedule_label(run, task), texts[run])))
        for run in runs
    }


def beside(runs: Sequence[Run]) -> dict[Run, str]:
    """`beside` and the text label of each run; nothing where all runs have one."""
    texts = text_labels(runs)
    several = len(set(texts.values())) > 1
    return {run: f"beside {text}" if several else "" for run, text in texts.items()}


def _entry_label(entry: InjectionConfig, rate: Fraction) -> str:
    """How one entry of `injections` injects its task, at a long-run rate of instances per batch."""
    if entry.schedule == "burst":
        label = f"{entry.instances} every {entry.every} batches" + (f" from {entry.phase}" if entry.phase else "")
    elif entry.schedule == "repetitions":
        label = f"each {entry.times} times" + (", in random steps" if entry.spread == "random" else "")
    elif entry.schedule == "phases":
        rates = [f"{phase.instances_per_batch}{_steps(phase.start, phase.stop)}" for phase in entry.phases]
        label = f"{rate} per batch, in phases: {'; '.join(rates)}"
    elif entry.schedule == "at":
        label = f"{rate} per batch, listed in {Path(entry.file or '').name}"
    else:
        label = f"{rate} per batch{', drawn by row' if entry.schedule == 'bernoulli' else ''}"
    label += _steps(entry.start, entry.stop)
    return f"{' and '.join(entry.groups)} {label}" if entry.groups else label


def _steps(start: int, stop: int | None) -> str:
    """The steps of a window, or nothing if it is the whole run."""
    return f", steps {start} to {'end' if stop is None else stop}" if start or stop is not None else ""
