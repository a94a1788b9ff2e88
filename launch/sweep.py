"""Sweep files: a grid of experiments described once, as cells with readable names.

    name: sizes-and-rates
    experiment: demo                       # what every cell starts from
    set: {train.max_duration: 200}
    axes:
      - {name: model, key: model, values: [tiny-8, tiny-64]}
      - {name: rate, key: injections.0.instances_per_batch, values: [1, 1/10]}

Axes are crossed. An axis with `cases` sets several keys together: `cases: {n10: {injections.0.every: 10, ...}, ...}`.
Keys may be nested: `set: {train: {max_duration: 200}}` is `set: {train.max_duration: 200}`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from olmo_inject.config import Experiment, find_config, load_experiment
from olmo_inject.errors import UserError
from olmo_inject.runs.same_run import identity
from olmo_inject.utils.described_yaml import described
from olmo_inject.utils.number_ranges import check_ranks_share
from olmo_inject.utils.paths import expanded
from olmo_inject.utils.yaml_text import Plain, in_flow, read_yaml

MOST_CELLS = 10_000
TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}")


@dataclass
class Resources:
    """What one cell runs on."""

    nodes: int = 1
    gpus_per_node: int = 8
    """0: on CPUs."""
    processes_per_node: int | None = None
    """Ranks; None: one per GPU, else 1."""
    cpus_per_process: int = 1
    time: str = "24:00:00"
    """SLURM's time limit for one attempt. A cell that reaches it is requeued and resumes."""

    @property
    def ranks_per_node(self) -> int:
        """Processes that torchrun starts on each node."""
        return self.processes_per_node or max(1, self.gpus_per_node)

    @property
    def cpus_per_node(self) -> int:
        """Cores of each node."""
        return self.ranks_per_node * self.cpus_per_process


@dataclass
class Axis:
    """One dimension of the grid: `key` with `values`, or `cases` that set several keys each.

    Attributes:
        name: of the axis, which begins a label in the cells' names.
        key: dotted key of the experiment.
        values: the values of `key`.
        cases: keys and values by label.
    """

    name: str = ""
    key: str | None = None
    values: list[Any] = field(default_factory=list)
    cases: dict[str, Any] = field(default_factory=dict)


@dataclass
class Rule:
    """Settings for the cells that `when` selects, e.g. the micro-batch and nodes of a model size."""

    when: dict[str, Any] = field(default_factory=dict)
    """Axis to a label or a list of labels."""
    set: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)


@dataclass
class SweepFile:
    """The keys of a sweep file."""

    name: str = ""
    folder: str = "runs/${name}"
    experiment: str = ""
    """A name in configs/experiments, or a path."""
    set: dict[str, Any] = field(default_factory=dict)
    """Keys and values for every cell."""
    axes: list[Axis] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Cells to leave out, each as a rule's `when`."""
    rules: list[Rule] = field(default_factory=list)
    """A later rule overrides an earlier one."""
    resources: Resources = field(default_factory=Resources)
    at_once: int = 8
    """Maximum cells of a submission that run at once on SLURM, of the same resources; 1 or more of each job array."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        name: `axis-label` of every axis, safe as a file's name.
        labels: axis to label.
        overrides: changes to the sweep's experiment, as key=value.
        resources: what it runs on.
        config: the sweep's experiment.
    """

    name: str
    labels: dict[str, str]
    overrides: tuple[str, ...]
    resources: Resources
    config: str

    @cached_property
    def experiment(self) -> Experiment:
        """The cell's experiment, resolved and checked."""
        try:
            return load_experiment(self.config, self.overrides, changed_by="the sweep's set, axes or rules")
        except UserError as error:
            raise UserError(f"cell {self.name}: {error}") from None

    @cached_property
    def identity(self) -> str:
        """Hash of everything that decides what is trained. Settings that a resume may change do not affect it."""
        return identity(self.experiment)


@dataclass(frozen=True)
class Sweep:
    """A grid of cells.

    Attributes:
        name: of its jobs.
        folder: holds runs, logs and the state of each cell.
        cells: at least one.
        at_once: maximum cells of the same resources that run at once on SLURM.
    """

    name: str
    folder: Path
    cells: list[Cell]
    at_once: int

    def cell(self, name: str) -> Cell:
        """The cell of this name.

        Raises:
            UserError: there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"{name!r} is not a cell of sweep {self.name}; `olmo-inject sweep show` lists them")

    def only(self, labels: Sequence[str]) -> Sweep:
        """The sweep with some of its cells.

        Args:
            labels: each axis=label or axis=label,label; a cell is kept that has one of the labels of each axis.

        Raises:
            UserError: the sweep has no such axis, label or cell.
        """
        axes: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            for axis, label in cell.labels.items():
                axes.setdefault(axis, {})[label] = None
        wanted: dict[str, list[str]] = {}
        for axis, _, chosen in (text.partition("=") for text in labels):
            wanted.setdefault(axis, []).extend(chosen.split(","))
        _check_labels(wanted, axes, "--only")
        kept = [cell for cell in self.cells if _matches(wanted, cell.labels)]
        if not kept:
            raise UserError(f"--only: no cell of sweep {self.name} has {' and '.join(labels)}")
        return replace(self, cells=kept)


def load_sweep(
    path: Path | str, *, only: Sequence[str] = (), folder: Path | None = None, overrides: Sequence[str] = ()
) -> Sweep:
    """Read and check a sweep file, and resolve its cells.

    Args:
        path: a YAML file, or the name of one in configs/sweeps.
        only: the cells to keep, as in `Sweep.only`; the others are not resolved.
        folder: takes the place of the file's `folder`.
        overrides: changes to every cell's experiment, as key=value, after those of the file.

    Raises:
        UserError: the key, the value and what is allowed; or the cell whose experiment is invalid.
    """
    file_path = find_config(path, "sweeps")
    written = read_yaml(file_path)
    replaced = {} if folder is None else {"folder": str(folder)}  # which other values may refer to
    file = _as_written(described(SweepFile, (str(file_path), written), ("folder", replaced)), written)
    if not file.name or not file.experiment or not file.axes:
        raise UserError(f"{file_path}: name, experiment and axes are needed")
    if not re.fullmatch(r"\w[\w.-]*", file.name):
        raise UserError(f"{file_path}: name: {file.name!r} must be letters, digits, '.', '_' and '-'")
    if file.at_once < 1:
        raise UserError(f"{file_path}: at_once: {file.at_once} must be at least 1")
    file.folder = str(folder or expanded(file.folder, f"{file_path}: folder"))
    file.experiment = expanded(file.experiment, f"{file_path}: experiment")
    beside = file_path.parent / file.experiment
    config = str(beside) if beside.is_file() else file.experiment
    cells = _cells(file, config, f"{file_path}", overrides)
    if not cells:
        raise UserError(f"{file_path}: every cell is excluded")
    sweep = Sweep(file.name, Path(file.folder), cells, file.at_once).only(only)
    for cell in sweep.cells:
        _check(cell)
    return sweep


def _as_written(read: Any, raw: Any) -> Any:
    """What OmegaConf read, with scalar values and labels spelled as in the file: `0010` stays `0010`."""
    if isinstance(read, SweepFile | Axis | Rule):
        for name in raw.keys() & {"set", "axes", "exclude", "rules", "values", "cases", "when"}:
            setattr(read, name, _as_written(getattr(read, name), raw[name]))
    elif isinstance(read, dict) and isinstance(raw, dict):
        return {key: _as_written(value, raw.get(key)) for key, value in read.items()}
    elif isinstance(read, list) and isinstance(raw, list):
        return [_as_written(entry, written) for entry, written in zip(read, raw, strict=True)]
    return raw if isinstance(raw, Plain) and "${" not in raw else read


def _cells(file: SweepFile, config: str, where: str, more_overrides: Sequence[str]) -> list[Cell]:
    axes = {axis.name: _cases(axis, where) for axis in file.axes}
    if len(axes) != len(file.axes):
        raise UserError(f"{where}: axes: two have the same name")
    for number, rule in enumerate(file.rules):
        _check_labels(rule.when, axes, f"{where}: rules.{number}.when")
    for number, labels in enumerate(file.exclude):
        _check_labels(labels, axes, f"{where}: exclude.{number}")
    points = math.prod(map(len, axes.values()))
    if points > MOST_CELLS:
        raise UserError(f"{where}: axes: the grid has {points:,} cells, more than {MOST_CELLS:,}")
    common = _settings(file.set, f"{where}: set")
    of_rules = [_settings(rule.set, f"{where}: rules.{number}.set") for number, rule in enumerate(file.rules)]
    for override in more_overrides:
        _check_own(override.partition("=")[0], override)
    cells = []
    for combination in itertools.product(*(cases.items() for cases in axes.values())):
        labels = {name: label for name, (label, _) in zip(axes, combination, strict=True)}
        if any(_matches(excluded, labels) for excluded in file.exclude):
            continue
        name = "_".join(f"{axis}-{label}" for axis, label in labels.items())
        rules = [number for number, rule in enumerate(file.rules) if _matches(rule.when, labels)]
        layers = [common, *(changes for _, changes in combination), *(of_rules[number] for number in rules)]
        overrides = [f"{key}={in_flow(value)}" for changes in layers for key, value in changes.items()]
        own = [f"name={name}", f"folder={Path(file.folder) / 'runs' / name}"]
        resources = file.resources
        for number in rules:
            resources = described(resources, (f"{where}: rules.{number}: resources", file.rules[number].resources))
        cells.append(Cell(name, labels, (*overrides, *more_overrides, *own), resources, config))
    return cells


def _cases(axis: Axis, where: str) -> dict[str, dict[str, Any]]:
    where = f"{where}: axes: {axis.name or '?'}"
    if not re.fullmatch(r"[A-Za-z0-9]+", axis.name):
        raise UserError(f"{where}: name must be letters and digits")
    if bool(axis.cases) == bool(axis.key) or bool(axis.values) != bool(axis.key):
        raise UserError(f"{where}: give either key and values, or cases")
    cases = axis.cases or {_label(value): {axis.key: value} for value in axis.values}
    if axis.values and len(cases) != len(axis.values):
        raise UserError(f"{where}: values: one is given twice")
    for label, changes in cases.items():
        if not re.fullmatch(r"[A-Za-z0-9.+-]+", label):
            raise UserError(f"{where}: {label!r} cannot be part of a file name; give the value a label with `cases`")
        if not isinstance(changes, Mapping):
            raise UserError(f"{where}: {label}: must hold keys and values")
    return {label: _settings(changes, f"{where}: {label}") for label, changes in cases.items()}


def _settings(changes: Mapping[str, Any], where: str, outer: str = "") -> dict[str, Any]:
    """Keys and values for cells, with nested keys written with dots: `train: {seed: 1}` as `train.seed: 1`."""
    settings: dict[str, Any] = {}
    for key, value in changes.items():
        _check_own(f"{outer}{key}", where)
        nested = isinstance(value, Mapping) and value
        settings |= _settings(value, where, f"{outer}{key}.") if nested else {f"{outer}{key}": value}
    return settings


def _check_own(key: str, where: str) -> None:
    if key in ("name", "folder"):
        raise UserError(f"{where}: {key}: leave it out: each cell has its own, from its labels and the sweep's folder")


def _label(value: Any) -> str:
    return str(value).replace("/", "of")


def _check_labels(labels: Mapping[str, Any], axes: Mapping[str, Collection[str]], where: str) -> None:
    for axis, wanted in labels.items():
        if axis not in axes:
            raise UserError(f"{where}: {axis!r} is not an axis: {', '.join(axes)}")
        for value in wanted if isinstance(wanted, list) else [wanted]:
            if _label(value) not in axes[axis]:
                raise UserError(f"{where}: {axis}: {value!r} is not one of {', '.join(axes[axis])}")


def _matches(wanted: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(
        labels[axis] in [_label(value) for value in (values if isinstance(values, list) else [values])]
        for axis, values in wanted.items()
    )


def _check(cell: Cell) -> None:
    resources = cell.resources
    if resources.nodes < 1 or resources.gpus_per_node < 0 or resources.ranks_per_node < 1:
        raise UserError(
            f"cell {cell.name}: resources: nodes and processes_per_node must be at least 1, gpus_per_node at least 0"
        )
    if resources.cpus_per_process < 1:
        raise UserError(f"cell {cell.name}: resources.cpus_per_process: must be at least 1")
    if not TIME.fullmatch(resources.time):
        raise UserError(f"cell {cell.name}: resources.time: {resources.time!r} is not [days-]hours:minutes:seconds")
    check_ranks_share(cell.experiment.batch_size, resources.nodes * resources.ranks_per_node, f"cell {cell.name}")
