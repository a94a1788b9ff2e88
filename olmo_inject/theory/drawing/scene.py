"""What the figures show: a mixture, widths, gaps and the length of training. A YAML file may configure it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import whole, wholes
from olmo_inject.theory.forms.closed_forms import checked_widths
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.train import Recipe, Trained, train
from olmo_inject.utils.described_yaml import read_described

# OmegaConf reads these annotations at run time, on Python 3.10 too.


@dataclass
class SceneConfig:
    """A power-law mixture and how it is trained; see docs/theory.md.

    Attributes:
        tasks: number of tasks.
        features: number of features of every task.
        frequency_power: frequencies fall as k to this negative power.
        spectrum_power: spectra fall as j to this negative power.
        null_directions: input directions that no task uses.
        widths: widths of losses and signals.
        injected: widths of the matched-frequency curves.
        contrast: a narrow and a wide width, for traces and cosines.
        shown: tasks whose curves are drawn, from 1.
        rare: the task in bursts, from 1.
        gaps: steps between bursts.
        trace_gap: steps between bursts in the traces.
        steps: training steps on the mixture.
        injection_steps: training steps with bursts.
        seeds: number of initial encoders.
    """

    tasks: int = 20
    features: int = 10
    frequency_power: float = 1.7
    spectrum_power: float = 2.3
    null_directions: int = 100
    widths: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128])
    injected: list[int] = field(default_factory=lambda: [16, 32, 64])
    contrast: list[int] = field(default_factory=lambda: [16, 64])
    shown: list[int] = field(default_factory=lambda: [1, 3, 7, 13, 20])
    rare: int = 13
    gaps: list[int] = field(default_factory=lambda: [1, 10, 100, 300, 1000])
    trace_gap: int = 100
    steps: int = 3_000
    injection_steps: int = 5_000
    seeds: int = 3


@dataclass(frozen=True, eq=False)
class Scene:
    """A checked `SceneConfig`. Tasks count from 0 here, and from 1 in the file and in figures.

    Args:
        mixture: the tasks.
        widths: widths N of losses and signals.
        injected: widths N of the matched-frequency curves.
        contrast: a narrow and a wide N, for traces and cosines.
        shown: tasks whose curves are drawn.
        rare: the task in bursts.
        gaps: gaps T between bursts.
        trace_gap: T of the traces.
        steps: training steps on the mixture.
        injection_steps: training steps with bursts.
        seeds: of the initial encoders, over which bands are drawn.
    """

    mixture: TaskMixture
    widths: tuple[int, ...]
    injected: tuple[int, ...]
    contrast: tuple[int, ...]
    shown: tuple[int, ...]
    rare: int
    gaps: tuple[int, ...]
    trace_gap: int
    steps: int
    injection_steps: int
    seeds: tuple[int, ...]

    @cached_property
    def trained(self) -> dict[int, Trained]:
        """Encoders of every width, trained on the mixture. Several figures share them."""
        return {width: train(self.mixture, width, Recipe(steps=self.steps), self.seeds) for width in self.widths}


def load_scene(path: Path | None, quick: bool) -> Scene:
    """Read a scene; None gives the default one, and `quick` a smaller version of it.

    Raises:
        UserError: the file cannot be read, or a number in it is impossible.
    """
    config = SceneConfig() if path is None else read_described(path, SceneConfig)
    return scene_of(_smaller(config) if quick else config)


def scene_of(config: SceneConfig) -> Scene:
    """Check a configuration.

    Raises:
        UserError: a number is impossible.
    """
    mixture = TaskMixture.power_law(
        config.tasks, config.features, config.frequency_power, config.spectrum_power, config.null_directions
    )
    steps = whole("injection_steps", config.injection_steps, 1)
    widths, injected, contrast = (
        tuple(checked_widths(mixture, given).tolist()) for given in (config.widths, config.injected, config.contrast)
    )
    if not widths or not injected or len(contrast) != 2:
        raise UserError("widths and injected must have one or more entries, contrast a narrow and a wide width")
    shown = tuple((wholes("shown", config.shown, 1, mixture.tasks) - 1).tolist())
    return Scene(
        mixture=mixture,
        widths=widths,
        injected=injected,
        contrast=contrast,
        shown=shown,
        rare=whole("rare", config.rare, 1, mixture.tasks) - 1,
        gaps=tuple(wholes("gaps", config.gaps, 1, steps).tolist()),
        trace_gap=whole("trace_gap", config.trace_gap, 2),
        steps=whole("steps", config.steps, 1),
        injection_steps=steps,
        seeds=tuple(range(whole("seeds", config.seeds, 1))),
    )


def _smaller(config: SceneConfig) -> SceneConfig:
    """The same scene with less of everything that takes time."""
    steps = min(config.injection_steps, 400)
    return replace(
        config,
        widths=[width for width in config.widths if width <= 32][-4:] or config.widths[:1],
        injected=config.injected[:2],
        contrast=[min(config.contrast), min(max(config.contrast), 2 * min(config.contrast))],
        gaps=[gap for gap in config.gaps if gap <= steps // 3],
        trace_gap=min(config.trace_gap, 20),
        steps=min(config.steps, 300),
        injection_steps=steps,
        seeds=min(config.seeds, 2),
    )
