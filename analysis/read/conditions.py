"""What a run injects and what it trains on, in a few words, for legends and tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from analysis.read.run_labels import labels
from analysis.read.runs import Run
from olmo_inject.config import CorpusConfig, InjectionConfig
from olmo_inject.entry_names import task_of_entry
from olmo_inject.runs.same_run import CONTENTS, LIST_FINGERPRINT

RATE_KEYS = (  # of an entry of `injections`: when and how often, which a schedule's label says
    *("schedule", "instances_per_batch", "per_sequence", "per_token", "instances", "every", "phase", "phases"),
    *("start", "stop", "times", "spread", "file"),
)
# Settings that other labels say (model size, text, schedule, steps), and seeds.
SAID_OTHERWISE = re.compile(
    rf"corpus\.|injections\.\d+\.(task|groups|{'|'.join(RATE_KEYS)})(\.|$)|model_name|train\.max_duration|(.*[._])?seed$"
)


def text_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """What each run trains on beside its tasks, and how, in a few words.

    Settings follow where runs of one model, schedule and text differ in them by more than seeds, such as
    `english, learning_rate 0.001`.
    """
    texts = _corpus_labels(runs)
    alike: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    deciding = {run: _settings(run) for run in runs}
    for run in runs:
        alike.setdefault((run.size, plan_label(run), texts[run]), []).append(deciding[run])
    varied = [
        setting
        for setting in dict.fromkeys(setting for of_run in deciding.values() for setting in of_run)
        if any(len({of_run.get(setting) for of_run in group}) > 1 for group in alike.values())
    ]
    return {
        run: ", ".join([text, *(f"{setting} {deciding[run].get(setting, 'not set')}" for setting in varied)])
        for run, text in texts.items()
    }


def _settings(run: Run) -> dict[str, str]:
    """The settings that a run's training depends on, but for model size, text, schedule and seeds, by name in words."""
    found = {key: value.strip('"') for key, value in run.settings.items() if not SAID_OTHERWISE.match(key)}
    for key, value in run.plan["fingerprints"].items():
        if key.startswith(LIST_FINGERPRINT):
            found[f"injections.{key.removeprefix(LIST_FINGERPRINT)}.list"] = value[:6]
    return {_in_words(run, key): value for key, value in found.items()} | {"steps": f"{run.experiment.steps:,}"}


def _in_words(run: Run, key: str) -> str:
    """The end of a dotted key: `learning_rate`, `optimizer.name`, `betas.1`; after the name of one of several tasks."""
    parts = key.split(".")
    short = ".".join(parts[-2:] if parts[-1].isdigit() or parts[-1] == "name" else parts[-1:])
    entries = {"tasks": [task.name for task in run.experiment.tasks], "injections": list(run.plan["injections"])}
    names = entries.get(parts[0], [])
    return f"{names[int(parts[1])]} {short}" if len(names) > 1 else short


def _corpus_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """The name of each run's text: one name wherever it is, and different ones for different texts.

    Texts of one name are told apart by the ends of their paths, and in one place by their contents.
    """
    read = {run: _text(run) for run in runs}
    first = {text: run.experiment.corpus for run, text in reversed(read.items())}
    places = {text: _place(corpus) for text, corpus in first.items()}
    named = labels((_name(corpus), places[text]) for text, corpus in first.items())
    shared = Counter(places.values())
    found = {}
    for run, text in read.items():
        name, sequences = named[places[text]], run.experiment.corpus.sequences
        name += f" (contents {text[1][:6]})" if shared[places[text]] > 1 else ""
        found[run] = name if sequences is None else f"{sequences:,} sequences of {name}"
    return found


def _text(run: Run) -> tuple[str | None, str]:
    """What tells texts apart: names and sizes of the shards, and their contents or, without checksums, their place."""
    prints = run.plan["fingerprints"]
    return prints.get("corpus"), prints.get(CONTENTS) or _place(run.experiment.corpus)


def _name(corpus: CorpusConfig) -> str:
    return corpus.name or (Path(corpus.folder).name if corpus.folder else "its own text")


def _place(corpus: CorpusConfig) -> str:
    return corpus.folder or corpus.name or next(iter(corpus.paths), "")


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
