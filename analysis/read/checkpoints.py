"""Which weights to analyse, and the one way to load them: as a transformers model, whatever they were stored as.

A `Subject` is one checkpoint of a run, or a model on its own: a folder of ai2-olmo or of transformers. Steps are
plan steps: `step{s}` holds the weights before plan step s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from analysis.read.runs import Run, order_of, read_run
from analysis.read.skipped import Skipped
from olmo_inject.errors import UserError
from olmo_inject.runs.read import expand, is_run
from olmo_inject.steps import parse_step_range
from olmo_inject.tasks import Task
from olmo_inject.training.checkpoints.record import RECORD, files_of_weights, read_record, verify_length
from olmo_inject.training.checkpoints.transformers import to_transformers
from olmo_inject.training.checkpoints.weights import load_weights, read_model_config

LAST, ALL = "last", "all"
FOLDER = "analysis"  # of results, in a run or beside a model's weights
_STEP = re.compile(r"step(\d+)")


@dataclass(frozen=True)
class Subject:
    """One set of weights to analyse.

    Attributes:
        path: its folder.
        step: the plan step that a run's checkpoint is about to see; None for a model on its own.
        run: the run it is of; None for a model on its own.
        tasks: what to analyse it on.
        folder: where its results are kept: `analysis/` of the run or of the model.
    """

    path: Path
    step: int | None
    run: Run | None
    tasks: list[Task]
    folder: Path

    @property
    def name(self) -> str:
        """For people and for folders of results: of the run and the step, or of the folder."""
        return self.path.name if self.run is None else f"{self.run.name} {self.path.name}"

    def columns(self) -> dict[str, Any]:
        """What tells it from others in a joined table; the step of a model on its own is -1."""
        if self.run is None:
            return {"run": self.path.name, "folder": str(self.path), "model": self.path.name, "step": -1}
        run = self.run
        return {"run": run.name, "folder": str(run.folder), "model": run.size, "step": self.step}

    def load(self, device: torch.device) -> PreTrainedModel:
        """The model, in evaluation mode and float32.

        Raises:
            UserError: it is missing, damaged, unsafe to read, or no model of a kind that is known.
        """
        return load_model(self.path).to(device)  # pyright: ignore[reportArgumentType]


def subjects(
    paths: Sequence[Path],
    steps: str,
    problems: Skipped,
    tasks: Sequence[Path] | None = (),
    corpus: Path | None = None,
) -> list[Subject]:
    """The checkpoints of runs, ordered as `read_runs` does and by step, then models on their own.

    Args:
        paths: run folders, folders of runs, checkpoints of runs, or models on their own.
        steps: of the runs; see `chosen_steps`.
        problems: where a step without a checkpoint is noted.
        tasks: files of tasks (a run's `tasks/NAME.json`) for the models on their own; None where these will not do.
        corpus: where the runs' corpus is now, if it has moved.

    Raises:
        UserError: nothing there, a folder that is neither, or no task for a model on its own.
    """
    found: list[Subject] = []
    runs: list[Run] = []
    for path in expand(paths):
        if is_run(path):
            runs.append(read_run(path, corpus))
        elif is_run(path.parent) and (match := _STEP.fullmatch(path.name)):
            found.append(checkpoint_of(read_run(path.parent, corpus), int(match[1])))
        elif is_model(path):
            if tasks is None:
                raise UserError(f"{path} is a model and no checkpoint of a run: its batches are not known")
            if not tasks:
                raise UserError(f"{path} is a model and not a run: say with --tasks which tasks to analyse it on")
            found.append(Subject(path, None, None, [Task.load(file) for file in tasks], path / FOLDER))
        else:
            raise UserError(f"{path} is neither a run folder, nor a folder of runs, nor a model")
    if tasks and all(subject.run is not None for subject in found):
        raise UserError("--tasks: goes with models that are no run; a run has its own tasks")
    for run in sorted(runs, key=order_of):
        found += _of_run(run, steps, problems)
    return sorted(found, key=lambda subject: subject.run is None)  # stable: each kind keeps its order


def chosen_steps(text: str, existing: Sequence[int]) -> tuple[list[int], list[int]]:
    """The steps that `text` chooses, and those it names that do not exist.

    Args:
        text: `last`, `all`, steps, and ranges `start:stop:every` as Python's, either end of which may be left out;
            several joined by commas. A range chooses among what exists.
        existing: steps that have a checkpoint, ascending.

    Raises:
        UserError: `text` is something else.
    """
    chosen: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        if part == LAST:
            chosen.update(existing[-1:])
        elif part == ALL:
            chosen.update(existing)
        elif part.isdecimal():
            chosen.add(int(part))
        elif (window := parse_step_range(part)) is not None:
            chosen.update(step for step in existing if _in_range(step, *window))
        else:
            raise UserError(
                f"--steps: {part!r} is not a step, a range start:stop or start:stop:every, '{LAST}' or '{ALL}'"
            )
    return sorted(chosen & set(existing)), sorted(chosen - set(existing))


def is_model(path: Path) -> bool:
    """Whether the folder holds weights, of whatever kind."""
    return (path / "config.json").is_file() or any(_weight_files(path))


def load_model(path: Path) -> PreTrainedModel:
    """The weights in a folder as a transformers model on the CPU, in evaluation mode and float32.

    Checkpoints of this project (unsharded, sharded, weights only; compared with their record first) and of
    ai2-olmo become an OlmoForCausalLM that computes the same; a transformers folder is read as what it is.

    Raises:
        UserError: missing, damaged, unsafe to read, or not a causal language model.
    """
    if (path / "config.json").is_file():
        return _from_transformers(path)
    config = read_model_config(path)
    return to_transformers(load_weights(path, config), config)


def identity(path: Path) -> str:
    """What the weights in a folder are, as a hash: of the checkpoint's record, or else of the files themselves.

    Files of a record are compared with it by length alone: what was computed from the weights when they were whole
    stays true of them, but a checkpoint of which something is missing is to be told, also where nothing needs it.

    Raises:
        UserError: there are none, or one is missing or cut short.
    """
    if (path / RECORD).is_file():
        verify_length(path, files_of_weights(read_record(path)))
        return hashlib.sha256((path / RECORD).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    files = [*_weight_files(path), *(path / name for name in ("config.json", "config.yaml"))]
    if len(files) == 2:
        raise UserError(f"{path} is not a complete checkpoint: it has no {RECORD} and no weights")
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as content:
                while block := content.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within the context, transformers draws none of its own for every folder of weights read or written."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _of_run(run: Run, steps: str, problems: Skipped) -> Iterator[Subject]:
    existing = sorted(int(match[1]) for path in run.folder.glob("step*") if (match := _STEP.fullmatch(path.name)))
    chosen, missing = chosen_steps(steps, existing)
    for step in missing:
        problems.add(f"{run.folder} has no checkpoint step{step}: {_listed(existing)}")
    if not chosen and not missing:
        problems.add(
            f"{run.folder} has no checkpoint" + (f" in --steps {steps}: {_listed(existing)}" if existing else "")
        )
    for step in chosen:
        yield checkpoint_of(run, step)


def _listed(steps: Sequence[int]) -> str:
    """For people: which checkpoints there are."""
    names = [f"step{step}" for step in steps]
    few = [*names[:3], "...", *names[-3:]] if len(names) > 8 else names
    return f"it has {', '.join(few) or 'none'}"


def checkpoint_of(run: Run, step: int) -> Subject:
    """One checkpoint of a run."""
    return Subject(run.folder / f"step{step}", step, run, run.tasks, run.folder / FOLDER)


def _in_range(step: int, start: int, stop: int | None, every: int) -> bool:
    return start <= step and (stop is None or step < stop) and (step - start) % every == 0


def _weight_files(path: Path) -> list[Path]:
    if (path / "model").is_dir():
        return sorted(file for file in (path / "model").iterdir() if file.is_file())
    return sorted([*path.glob("*.safetensors"), *path.glob("model.pt")])


def _from_transformers(path: Path) -> PreTrainedModel:
    try:
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # of many types: no weights, half a file, an unknown architecture, code of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a transformers model: {reason[:200]}") from error
    return model.eval()
