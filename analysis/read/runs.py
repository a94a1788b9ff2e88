"""A run folder as arrays: what was measured, what was injected, and whether the task was learned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.read.run_labels import labels
from analysis.stats import wilson
from olmo_inject.config import Described, Experiment, InjectionConfig, StreamExperiment, named_model
from olmo_inject.entry_names import task_of_entry
from olmo_inject.errors import UserError
from olmo_inject.injection import Frequency, PlannedTask
from olmo_inject.plan_entries import planned_tasks
from olmo_inject.runs.read import SavedRun, load_run, read_audit, read_metrics
from olmo_inject.runs.same_run import settings
from olmo_inject.tasks import Task
from olmo_inject.tasks.halves import UNMIRRORED, chosen_ids, deciding_accuracy, unmirrored_among

_COLUMNS = ("step", "name", "value", "count")
SIZE_KEYS = ("d_model", "n_layers", "mlp_ratio", "mlp_hidden_size")
EVEN, BURSTS = ("uniform", "bernoulli", "repetitions"), ("burst",)  # schedules that have one rate, and one rate and gap
LM_LOSS_STEPS = 50  # the last language-model loss is a mean over this many steps

# The criterion for "learned" by kind of task: the lower end of the 95% interval of accuracy on test pairs whose mirror
# was not trained on is above this value. Kinds of your own have no entry, so they get no verdict.
LEARNED_ABOVE = {"comparison": 0.85, "modular_addition": 0.5}


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with its Wilson interval.

    Attributes:
        value: fraction of correct answers.
        n: number of instances.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
    """

    value: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, value: float, n: int) -> Accuracy:
        """The accuracy `value` measured on `n` instances."""
        return cls(value, n, *wilson(value, n))

    def __str__(self) -> str:
        """The accuracy with its interval, such as `0.941 (0.917 to 0.958)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, finished or not.

    Attributes:
        name: the experiment's name, made unique among the runs it is read with.
        folder: the run folder.
        experiment: the resolved configuration.
        tasks: the tasks as they were built.
        plan: contents of `plan.json`.
        metrics: columns step, name, value, count; empty if nothing was measured yet.
        audit: the record of its last audit, or None.
        corpus: where its corpus is now, if the caller said so.
    """

    name: str
    folder: Path
    experiment: Described
    tasks: list[Task]
    plan: dict[str, Any]
    metrics: pd.DataFrame
    audit: dict[str, Any] | None
    corpus: Path | None = None

    @property
    def saved(self) -> SavedRun:
        """The run as its folder describes it."""
        return SavedRun(self.folder, self.experiment, self.tasks, self.plan)

    @property
    def own_steps(self) -> range:
        """The steps that it trains itself: all, or of a branch those from where it begins."""
        return self.saved.own_steps

    @cached_property
    def settings(self) -> dict[str, str]:
        """What may tell two runs apart: JSON values by dotted key, without what a resume may change."""
        return settings(self.experiment)

    @cached_property
    def size(self) -> str:
        """The model's name; its width and depth if the experiment overrides its size."""
        if isinstance(self.experiment, StreamExperiment):
            return str(self.experiment.model.get("size", "unknown"))
        assert isinstance(self.experiment, Experiment)
        model, name = self.experiment.model, self.experiment.model_name
        shape = f"{model.d_model} wide, {model.n_layers} deep"
        if name is None:
            return shape
        try:
            named = named_model(name)
        except UserError:  # the user's model file is gone
            return name
        changed = any(key in named and named[key] != getattr(model, key) for key in SIZE_KEYS)
        return f"{name}, {shape}" if changed else name

    @cached_property
    def parameters(self) -> int:
        """Number of parameters without the input embedding, as ai2-olmo counts them."""
        if isinstance(self.experiment, StreamExperiment):
            return int(self.experiment.model.get("parameters", 0))
        assert isinstance(self.experiment, Experiment)
        from olmo.model import OLMo  # importing it takes seconds

        from olmo_inject.training.olmo_config import model_config

        on_meta = model_config(self.experiment.model).update_with(init_device="meta")
        return OLMo(on_meta, init_params=False).num_params(include_embedding=False)

    @cached_property
    def steps_done(self) -> int:
        """Number of steps with a measured loss, or the step of the last evaluation if that is larger."""
        trained, evaluated = self._steps("train/loss"), self._steps("eval/")
        return int(max([*(trained + 1), *evaluated], default=0))

    @property
    def finished(self) -> bool:
        """Whether it was trained to its last step."""
        return self.steps_done >= self.experiment.steps

    def series(self, name: str) -> pd.Series:
        """The values of one metric by step, ascending; empty if it was never measured."""
        rows = self.metrics.loc[self.metrics["name"] == name]
        return pd.Series(rows["value"].to_numpy(float), rows["step"].to_numpy(int)).sort_index()

    def _steps(self, prefix: str) -> np.ndarray:
        """The steps at which a metric that starts with `prefix` was measured."""
        return self.metrics.loc[self.metrics["name"].str.startswith(prefix), "step"].to_numpy(int)

    def task(self, name: str) -> Task | None:
        """The task of that name, or None."""
        return next((task for task in self.tasks if task.name == name), None)

    def injection(self, task: str) -> InjectionConfig | None:
        """The configuration of the task's first injections, or None if it is only evaluated."""
        return next(iter(self._injections(task)), None)

    def _planned(self, task: str) -> list[dict[str, Any]]:
        """What the plan says of each of the task's entries."""
        return [each for name, each in self.plan["injections"].items() if task_of_entry(name) == task]

    def frequency(self, task: str) -> Frequency:
        """The task's long-run frequency; zero if it is not injected."""
        rate = sum((Fraction(each["instances_per_batch"]) for each in self._planned(task)), Fraction(0))
        return Frequency(rate, self.experiment.batch_size, self.experiment.sequence_length)

    @cached_property
    def _entries(self) -> list[PlannedTask]:
        return planned_tasks(self.experiment, self.tasks)

    def injected_in(self, task: str, step: int) -> int:
        """Number of instances of `task` that the schedules put into a step."""
        return sum(entry.schedule.count(step) for entry in self._entries if entry.task.name == task)

    def injecting_steps(self, task: str) -> list[int]:
        """The steps of the run that inject `task`; not those before a branch begins, which its parent trained."""
        return [step for step in self.own_steps if self.injected_in(task, step)]

    def rate(self, task: str) -> tuple[Fraction, float]:
        """The sort key of schedules: the long-run frequency, then the gap."""
        return self.frequency(task).per_batch, self.gap(task) or 0.0

    def rates(self) -> list[tuple[Fraction, float]]:
        """The `rate` of every task."""
        return [self.rate(task.name) for task in self.tasks]

    def evenly_injected(self, task: str) -> bool:
        """Whether `task` is injected at one rate over the whole run: evenly, or in random rows."""
        return self._is_injected(task, EVEN) and self.injected_throughout(task)

    def in_bursts(self, task: str) -> bool:
        """Whether `task` is injected in bursts alone."""
        return self._is_injected(task, BURSTS)

    def injected_throughout(self, task: str) -> bool:
        """Whether `task` is injected from the first step to the last, in a way that its rate and its gap describe."""
        ends = [(entry.start, entry.stop) for entry in self._injections(task)]
        first, beyond = self.own_steps.start, self.own_steps.stop
        whole = all(start <= first and (stop is None or stop >= beyond) for start, stop in ends)
        return whole and (self._is_injected(task, EVEN) or self._is_injected(task, BURSTS))

    def _is_injected(self, task: str, schedules: Collection[str]) -> bool:
        """Whether `task` has entries, and all of them have one of these schedules."""
        found = {entry.schedule for entry in self._injections(task)}
        return bool(found) and found <= set(schedules)

    def _injections(self, task: str) -> list[InjectionConfig]:
        return [entry for entry in self.experiment.injections if entry.task == task]

    def gap(self, task: str) -> float | None:
        """Mean number of steps between batches that hold the task; None if fewer than two do."""
        planned = self._planned(task)
        if len(planned) > 1:
            steps = self.injecting_steps(task)
            return float(np.diff(steps).mean()) if len(steps) > 1 else None
        between = planned[0]["steps_between_observations"] if planned else None
        return between["mean"] if between else None

    def accuracies(self, task: str, measure: str | None = None) -> dict[int, Accuracy]:
        """Accuracy on the test half by step, ascending.

        Args:
            task: name of the task.
            measure: `accuracy` (all pairs) or `accuracy_unmirrored`. By default the one that decides whether the task
                is learned: unmirrored pairs, or all pairs if every pair's mirror is in the train half.
        """
        by_name = {str(name): rows for name, rows in self.metrics.groupby("name")}
        prefix = f"eval/{task}/test/"
        rows = deciding_accuracy(by_name, task) if measure is None else by_name.get(f"{prefix}{measure}")
        if rows is None:
            return {}
        ordered = rows.dropna(subset=["value"]).sort_values("step", kind="stable")
        return {int(row["step"]): Accuracy.of(row["value"], int(row["count"])) for row in ordered.to_dict("records")}

    def accuracy(self, task: str, measure: str | None = None) -> Accuracy | None:
        """The last of `accuracies`, or None if there is none."""
        return next(reversed(self.accuracies(task, measure).values()), None)

    def learned(self, task: str) -> bool | None:
        """Whether the task was learned at its last evaluation; None if it was not measured or has no verdict."""
        return next(reversed(self.verdicts(task).values()), None)

    def verdicts(self, task: str) -> dict[int, bool]:
        """Whether the task was learned, by step.

        Empty if its kind has no criterion, or if every test pair has its mirror in the train half.
        """
        above = None if (built := self.task(task)) is None else LEARNED_ABOVE.get(built.config.kind)
        if above is None:
            return {}
        return {step: accuracy.low > above for step, accuracy in self.accuracies(task, UNMIRRORED).items()}

    @cached_property
    def lm_loss(self) -> float | None:
        """Mean loss on all tokens that were not injected over the last 50 steps, in nats per token."""
        losses = self.series("train/lm_loss").dropna()
        return float(losses.iloc[-LM_LOSS_STEPS:].mean()) if len(losses) else None


def read_run(folder: Path, corpus: Path | None = None) -> Run:
    """Read a run folder. A run that has not started or was interrupted is read as far as it got.

    Args:
        folder: the run folder.
        corpus: where its corpus is now, if it has moved.

    Raises:
        UserError: the folder is not a run, or a file in it is damaged.
    """
    saved = load_run(folder, corpus)
    lines = list(read_metrics(folder))
    metrics = pd.DataFrame({column: [line.get(column) for line in lines] for column in _COLUMNS})
    metrics = _with_own_counts(metrics.astype({"name": object}), saved.tasks)  # object: also if empty
    audit = read_audit(folder)
    return Run(saved.experiment.name, folder, saved.experiment, saved.tasks, saved.plan, metrics, audit, corpus)


def _with_own_counts(metrics: pd.DataFrame, tasks: Sequence[Task]) -> pd.DataFrame:
    """The measurements with correct counts, the number of values that each mean is over.

    Older logs give accuracy on unmirrored pairs the count of all test pairs, and lack it if no pair is mirrored.
    """
    for task in tasks:
        prefix = f"eval/{task.name}/test/"
        whole = metrics.loc[metrics["name"] == f"{prefix}accuracy"]
        mine = (metrics["name"] == f"{prefix}{UNMIRRORED}").to_numpy(bool)
        if whole.empty or not task.is_triples:
            continue
        own = {n: len(unmirrored_among(task, chosen_ids(task, "test", int(n)))) for n in whole["count"].unique()}
        if mine.any():
            of_all = metrics["step"].map(dict(zip(whole["step"], whole["count"], strict=True)))
            older = mine & (metrics["count"] == of_all).to_numpy(bool)
            metrics.loc[older, "count"] = metrics.loc[older, "count"].map(own)
        else:
            same = whole.loc[whole["count"].map(own) == whole["count"]]
            metrics = pd.concat([metrics, same.assign(name=f"{prefix}{UNMIRRORED}")], ignore_index=True)
    return metrics


def read_runs(folders: Sequence[Path], corpus: Path | None = None) -> list[Run]:
    """Read several runs, sorted by model size and then by frequency, each with a unique name.

    Args:
        folders: run folders, each once.
        corpus: where the runs' corpus is now, if it has moved.

    Raises:
        UserError: no folder, a folder given twice, or one that `read_run` refuses.
    """
    if not folders:
        raise UserError("no runs given")
    resolved = [folder.resolve() for folder in folders]
    for folder in folders:
        if resolved.count(folder.resolve()) > 1:
            raise UserError(f"{folder} is given twice")
    runs = [read_run(folder, corpus) for folder in folders]
    told_apart = labels((run.name, str(run.folder)) for run in runs)
    return sorted((replace(run, name=told_apart[str(run.folder)]) for run in runs), key=order_of)


def order_of(run: Run) -> tuple[Any, ...]:
    """The sort key of runs: model size, then frequency, then name."""
    return run.parameters, run.rates(), run.name


def measurements(runs: Sequence[Run], *names: str) -> pd.DataFrame:
    """Values of the named metrics by run and step. Columns: run, model, step, name, value and count."""
    tables = [
        pd.DataFrame({"run": run.name, "model": run.size}, index=of.index).join(of)
        for run in runs
        if len(of := run.metrics.loc[run.metrics["name"].isin(names)])
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "model", *_COLUMNS])


def task_names(runs: Sequence[Run]) -> list[str]:
    """Names of all tasks of the runs, in the order of first appearance."""
    return list(dict.fromkeys(task.name for run in runs for task in run.tasks))


def label_tasks(runs: Sequence[Run]) -> list[str]:
    """Those of `task_names` whose instances are a pair and its LABEL, not texts."""
    of_labels = {task.name for run in runs for task in run.tasks if task.is_triples}
    return [name for name in task_names(runs) if name in of_labels]
