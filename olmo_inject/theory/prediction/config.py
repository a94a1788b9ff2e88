"""The configuration of a prediction: a file of its own, or the injections of a plan or experiment with spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from olmo_inject.errors import UserError
from olmo_inject.theory.mixtures.frequencies import mixture_from_frequencies, parse_rate
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law
from olmo_inject.theory.prediction.injected_rates import injected_rates, is_injected
from olmo_inject.utils.described_yaml import described
from olmo_inject.utils.yaml_text import parse_overrides, read_yaml

# OmegaConf reads these annotations at run time, on Python 3.10 too.


@dataclass
class SpectrumConfig:
    """Values, or a power law j^-power of unit sum."""

    power: float | None = None
    features: int = 10
    values: list[float] | None = None


@dataclass
class TaskConfig:
    """One task.

    Attributes:
        frequency: share of the data.
        instances_per_batch: in place of `frequency`: a number or a fraction such as 1/10.
        spectrum: eigenvalues of its features.
        directions: for overlapping tasks, a list of numbers for each feature.
        gram: the Gram matrix C_k, in place of spectrum and directions.
    """

    frequency: int | float | str | None = None
    instances_per_batch: int | float | str | None = None
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    directions: list[list[float]] | None = None
    gram: list[list[float]] | None = None


@dataclass
class OverlapConfig:
    """Two tasks whose features overlap: the cosine between their first features, their second features, ..."""

    tasks: list[str] = field(default_factory=list)
    cosine: float = 0.0


@dataclass
class OptimizerConfig:
    """The optimizer, see `OptimizerSettings`.

    Attributes:
        name: plain, adam or muon.
        learning_rate: of the optimizer; for a plain one it replaces `step_size`.
        beta1: of Adam, or Muon's momentum.
        beta2: of Adam.
        steps: number of simulated steps.
        seeds: number of initial encoders.
    """

    name: str = "plain"
    learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    steps: int = 3000
    seeds: int = 3


@dataclass
class BackgroundConfig:
    """The corpus: power-law tasks that share the data that the declared tasks leave."""

    tasks: int = 20
    power: float = 1.7
    spectrum: SpectrumConfig = field(default_factory=lambda: SpectrumConfig(power=2.3))


@dataclass
class PredictConfig:
    """Everything that `predict` takes; see docs/theory.md.

    Attributes:
        tasks: the declared tasks by name.
        background: the corpus; None: the declared tasks compete only with each other.
        batch: instances in a batch.
        widths: widths to tabulate.
        gaps: gaps to tabulate, in steps.
        step_size: eta nu_1, below 0.5.
        optimizer: whose gaps are predicted.
        overlaps: cosines between features of tasks.
        frequent_mass: share of the data that defines the frequent tasks.
        residual_share: what N_epsilon may leave of them.
    """

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    background: BackgroundConfig | None = None
    batch: int | None = None
    widths: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128])
    gaps: list[int] = field(default_factory=lambda: [1, 10, 100, 1000])
    step_size: float = 0.1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    overlaps: list[OverlapConfig] = field(default_factory=list)
    frequent_mass: float = 0.9
    residual_share: float = 0.05


def load_predict_config(path: Path, spectra: Path | None = None, overrides: Sequence[str] = ()) -> PredictConfig:
    """Read a prediction's configuration.

    Args:
        path: a PredictConfig as YAML; or a run's plan or an experiment, known by their `injections`, of which
            only rates are read and, from a plan, the batch (see `injected_rates`).
        spectra: a PredictConfig with what a plan or experiment lacks, above all the tasks' spectra.
        overrides: `key=value` in OmegaConf's dotted form, over both.

    Raises:
        UserError: a file cannot be read, or holds an unknown key or a wrong type.
    """
    first = read_yaml(path)
    layers = [(str(spectra), read_yaml(spectra))] if spectra else []
    if is_injected(first):
        layers.append((str(path), injected_rates(path, first)))
    else:
        layers.insert(0, (str(path), first))
    layers += [(f"override {override!r}", parse_overrides([override])) for override in overrides]
    return described(PredictConfig, *layers)


def configured_mixture(config: PredictConfig) -> TaskMixture:
    """The mixture that a configuration describes. Its width limit is the largest requested width.

    Raises:
        UserError: frequencies or spectra are missing, mixed in kind or impossible.
    """
    if not config.tasks:
        raise UserError("tasks: one or more are needed, each with a frequency and a spectrum")
    for name, task in config.tasks.items():
        if task.gram is not None:
            _read_gram(name, task)
    names = list(config.tasks)
    spectra = [_spectrum(f"tasks.{name}.spectrum", task.spectrum) for name, task in config.tasks.items()]
    background = _background(config.background)
    features = sum(map(len, spectra)) + (background.features if background else 0)
    null_directions = max(0, max(config.widths, default=0) - features)
    tasks = config.tasks.values()
    rates = [task.instances_per_batch for task in tasks if task.instances_per_batch is not None]
    if len(rates) == len(tasks) and all(task.frequency is None for task in tasks):
        return mixture_from_frequencies(
            names, rates, spectra, batch=config.batch, background=background, null_directions=null_directions
        )
    for name, task in config.tasks.items():
        if task.frequency is None or task.instances_per_batch is not None:
            raise UserError(f"tasks.{name}: give frequency or instances_per_batch, one of the two, the same for all")
    shares = [
        float(parse_rate(task.frequency, f"tasks.{name}.frequency"))
        for name, task in config.tasks.items()
        if task.frequency is not None
    ]
    if background is None:
        return TaskMixture(np.array(shares), tuple(spectra), tuple(names), null_directions)
    if sum(shares) >= 1:
        raise UserError(f"tasks: frequencies sum to {sum(shares):g}, which leaves nothing for the background")
    # Shares of the data are rates in a batch of one instance.
    return mixture_from_frequencies(
        names, shares, spectra, batch=1, background=background, null_directions=null_directions
    )


def _read_gram(name: str, task: TaskConfig) -> None:
    """Replace a Gram matrix by its spectrum and directions."""
    if task.directions is not None or task.spectrum.values is not None or task.spectrum.power is not None:
        raise UserError(f"tasks.{name}: a gram gives spectrum and directions: leave out both")
    assert task.gram is not None
    alone = OverlappingMixture.from_grams([1.0], [np.array(_even(f"tasks.{name}.gram", task.gram))])
    task.spectrum = SpectrumConfig(values=alone.spectra[0].tolist())
    task.directions, task.gram = alone.directions.T.tolist(), None


def _even(where: str, rows: list[list[float]]) -> list[list[float]]:
    if len({len(row) for row in rows}) != 1:
        raise UserError(f"{where} must be lists of the same length")
    return rows


def _background(config: BackgroundConfig | None) -> TaskMixture | None:
    if config is None:
        return None
    spectrum = _spectrum("background.spectrum", config.spectrum)
    try:
        frequencies = power_law(config.tasks, config.power)
    except UserError as error:
        raise UserError(f"background: {error}") from None
    return TaskMixture(
        frequencies,
        (spectrum,) * config.tasks,
        tuple(f"corpus-{k + 1}" for k in range(config.tasks)),
    )


def _spectrum(where: str, config: SpectrumConfig) -> np.ndarray:
    if (config.power is None) == (config.values is None):
        raise UserError(f"{where}: give either power, with features, or values; e.g. {where}.power=2")
    if config.values is not None:
        return np.array(config.values, dtype=np.float64)
    assert config.power is not None
    try:
        return power_law(config.features, config.power)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
