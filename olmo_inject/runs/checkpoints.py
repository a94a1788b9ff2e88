"""Which checkpoints a command uses: the folders that the user names, and the steps of each run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from olmo_inject.errors import UserError
from olmo_inject.runs.read import expand, is_run
from olmo_inject.steps import parse_step_range
from olmo_inject.utils.paths import distinct_ends

RECORD = "checkpoint.json"  # written last, so a checkpoint of this project that has none is not complete
LAST, ALL = "last", "all"
MODEL_CONFIGS = ("config.json", "config.yaml")  # of transformers, and of ai2-olmo
_PLACES = ("step{}", "checkpoints/checkpoint-{}")  # in a run folder; transformers' Trainer writes the second
_CONVERT = "convert OLMo-core's checkpoints with convert_checkpoints of olmo_inject.adapters.olmo_core"


def checkpoint_labels(paths: Iterable[str]) -> dict[str, str]:
    """Checkpoints in tables: the names of run and folder, with as much of the path as tells them apart."""
    paths = list(paths)
    deep = any(Path(path).parent.name == "checkpoints" for path in paths)  # those of transformers' Trainer
    return distinct_ends(paths, 3 if deep else 2)


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder of weights.

    Attributes:
        path: the folder.
        run: the folder of its run; None for a model outside runs.
        step: the plan step before which the weights were saved; None for a model outside runs.
    """

    path: Path
    run: Path | None
    step: int | None


@dataclass(frozen=True)
class Selection:
    """What the user selected.

    Attributes:
        checkpoints: in the order of the paths, and by step within a run.
        missing: a message for each run without any checkpoint or without a step that was named.
    """

    checkpoints: list[CheckpointFolder]
    missing: list[str]


def find_checkpoints(paths: Sequence[Path], steps: str = ALL) -> Selection:
    """Find the checkpoints of runs, and models outside runs.

    Args:
        paths: run folders, folders of runs, checkpoints of runs, or folders of weights.
        steps: which checkpoints of a run folder, as in `select_steps`.

    Raises:
        UserError: a path does not exist, is given twice or holds no weights, or `steps` has another form.
    """
    folders: list[CheckpointFolder] = []
    missing: list[str] = []
    for path in expand(paths):
        if is_run(path):
            chosen, messages = _of_run(path, steps)
            folders += [CheckpointFolder(folder_of(path, step), path, step) for step in chosen]
            missing += messages
        elif (place := run_and_step(path)) is not None:
            folders.append(CheckpointFolder(path, *place))
        elif is_olmo_cores(path):
            raise UserError(f"{path} is not in a format of transformers or ai2-olmo: {_CONVERT}")
        elif holds_model(path):
            folders.append(CheckpointFolder(path, None, None))
        else:
            raise UserError(f"{path} is neither a checkpoint nor a run folder, a folder of runs or a model")
    return Selection(list(dict.fromkeys(folders)), missing)


def folder_of(run: Path, step: int) -> Path:
    """The folder of a run's checkpoint: `step{step}`, or transformers' own `checkpoints/checkpoint-{step}`."""
    places = [run / place.format(step) for place in _PLACES]
    return next((place for place in places if place.is_dir()), places[0])


def steps_of(run: Path) -> list[int]:
    """The steps of a run that have a complete checkpoint, ascending."""
    places = [run_and_step(path) for place in _PLACES for path in run.glob(place.format("*"))]
    steps = {place[1] for place in places if place is not None}
    return sorted(step for step in steps if not _is_incomplete(folder_of(run, step)))


def step_folders(run: Path) -> list[Path]:
    """The folders with the name of this project's checkpoints, `step{step}`, complete or not."""
    return sorted(path for path in run.glob("step*") if re.fullmatch(r"step\d+", path.name))


def run_and_step(path: Path) -> tuple[Path, int] | None:
    """The run folder and step of a checkpoint; None if it belongs to no run."""
    for place in _PLACES:
        match = re.fullmatch(place.format(r"(\d+)"), "/".join(path.parts[-1 - place.count("/") :]))
        run = path.parents[place.count("/")] if match else path
        if match and is_run(run):
            return run, int(match[1])
    return None


def select_steps(text: str, existing: Sequence[int]) -> tuple[list[int], list[int]]:
    """The existing steps that `text` selects, and the steps it names that do not exist.

    Args:
        text: `last`, `all`, steps, and ranges `start:stop:every` as in Python, where either end may be left out; joined
            by commas. A range selects among existing steps.
        existing: steps that have a checkpoint, ascending.

    Raises:
        UserError: `text` has another form.
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


def holds_model(path: Path) -> bool:
    """Whether the folder holds a model of any kind."""
    return any((path / name).is_file() for name in MODEL_CONFIGS) or any(weight_files(path))


def is_olmo_cores(path: Path) -> bool:
    """Whether the folder is a checkpoint of OLMo-core's Trainer, which is not read before it is converted."""
    return (path / "model_and_optim").is_dir()


def weight_files(path: Path) -> list[Path]:
    """The files of weights in a folder: shards, safetensors, or ai2-olmo's `model.pt`."""
    if (path / "model").is_dir():
        return sorted(file for file in (path / "model").iterdir() if file.is_file())
    return sorted([*path.glob("*.safetensors"), *path.glob("model.pt")])


def _is_incomplete(path: Path) -> bool:
    """Whether a folder with the name of this project's checkpoints lacks the record, as a copy that was cut off."""
    return path.name.startswith("step") and not (path / RECORD).is_file()


def _of_run(run: Path, steps: str) -> tuple[list[int], list[str]]:
    existing = steps_of(run)
    chosen, absent = select_steps(steps, existing)
    cut_off = filter(_is_incomplete, step_folders(run))
    incomplete = [f"{path} is not a complete checkpoint: it has no {RECORD}" for path in cut_off]
    if not existing and any(map(is_olmo_cores, run.glob("checkpoints/step*"))):
        return [], [f"{run} has no checkpoint that can be read: {_CONVERT}"]
    if not chosen and not absent:
        none = f"{run} has no checkpoint" + (f" in --steps {steps}: {_listed(existing)}" if existing else "")
        return [], [none, *incomplete]
    return chosen, [*(f"{run} has no checkpoint step{step}: {_listed(existing)}" for step in absent), *incomplete]


def _listed(steps: Sequence[int]) -> str:
    names = [f"step{step}" for step in steps]
    few = [*names[:3], "...", *names[-3:]] if len(names) > 8 else names
    return f"it has {', '.join(few) or 'none'}"


def _in_range(step: int, start: int, stop: int | None, every: int) -> bool:
    return start <= step and (stop is None or step < stop) and (step - start) % every == 0
