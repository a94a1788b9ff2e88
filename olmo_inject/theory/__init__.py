"""Which tasks a model of width N holds, and why a rare one is lost: multi-task linear regression in closed form.

Start with a mixture and ask it:

>>> from olmo_inject.theory import TaskMixture, critical_widths, task_signals
>>> mixture = TaskMixture([0.9, 0.1], ([1.0, 0.25], [0.8]), names=("common", "rare"))
>>> task_signals(mixture, [1, 2])[:, mixture.index("rare")]
array([0., 0.])
>>> critical_widths(mixture).tolist()  # of each feature, task after task
[1, 2, 3]

The rare task needs width 3. The longest gaps at which it is learned, and kept once learned, under plain steps:

>>> from olmo_inject.theory import longest_gaps, longest_kept_gaps
>>> longest_gaps(mixture, [2, 3], step_size=0.1)[:, 1]
array([ 0., inf])
>>> longest_kept_gaps(mixture, [2, 3], step_size=0.1)[:, 1]
array([  0., 124.])

Tasks that share directions share slots and have no sharp critical width:

>>> from olmo_inject.theory import OverlappingMixture
>>> tangled = OverlappingMixture.from_overlaps([0.9, 0.1], ([1.0], [0.8]), [[1.0, 0.6], [0.6, 1.0]])
>>> tangled.task_signals([1, 2])[:, 1].round(3)
array([0.402, 1.   ])

The equations of arXiv 2605.29548 behind each function (docs/theory.md writes them out):

    TaskMixture, task_losses, task_signals       the student and Theorem 3: what a width holds
    minimal_widths                               Theorem 3: the width for every task's first m features
    interference                                 Theorem 4: the bound on the common gradient
    residual_width, residuals, frequent_tasks    Corollary 5: the width that explains the common tasks
    critical_widths                              Proposition 6: the width from which a rare feature is stable
    longest_gaps, period_growth                  matched-frequency injection, Fig. 4: growth from nothing
    longest_kept_gaps, tilt_growth, gap_regime   the same question for a learned task; not in the paper
    adam_displacement                            how far Adam moves in a burst; not in the paper
    OverlappingMixture, gradient_cosines,        tasks that are not orthogonal; not in the paper, but
        cosine_at_random, conflict, flow_cycle   its Sec. 4.4 measures such cosines in language models
    ScalingLaw, PowerLaw, Regimes, fit_*         Sec. 2, Definitions 1 and 2
    train, Recipe, Bursts                        training on any of these, seeds and gaps at once
    predict                                      everything for a mixture
    estimate_utilities, estimate_from_runs       the reverse, from measured losses

Modules: `mixtures` has the problems, `forms` the closed forms, `training` trained encoders and their measures,
`scaling` laws and fits, `prediction` predictions for a user's own frequencies, `checks` the validation, `drawing` the
figures, and `commands` the command line. `arguments` validates every argument.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo_inject.theory.forms.closed_forms import (
        critical_widths,
        frequent_tasks,
        minimal_widths,
        mixture_losses,
        residual_width,
        residuals,
        task_losses,
        task_signals,
    )
    from olmo_inject.theory.forms.gaps import adam_displacement, longest_gaps, period_growth
    from olmo_inject.theory.forms.kept import gap_regime, longest_kept_gaps, tilt_growth
    from olmo_inject.theory.forms.overlap import conflict, cosine_at_random, floor, flow_cycle, gradient_cosines
    from olmo_inject.theory.mixtures.frequencies import mixture_from_frequencies
    from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
    from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law
    from olmo_inject.theory.prediction.estimate import estimate_utilities
    from olmo_inject.theory.prediction.measured import estimate_from_runs
    from olmo_inject.theory.prediction.predict import predict
    from olmo_inject.theory.scaling.fit import fit_power_law, fit_scaling_law
    from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw
    from olmo_inject.theory.training.gradients import interference
    from olmo_inject.theory.training.streams import Bursts
    from olmo_inject.theory.training.train import Recipe, train

# Names by module, imported on first use, so that closed forms do not wait for torch.
_PUBLIC = {
    "forms.closed_forms": "critical_widths frequent_tasks minimal_widths mixture_losses residual_width residuals "
    "task_losses task_signals",
    "forms.gaps": "adam_displacement longest_gaps period_growth",
    "forms.kept": "gap_regime longest_kept_gaps tilt_growth",
    "forms.overlap": "conflict cosine_at_random floor flow_cycle gradient_cosines",
    "mixtures.frequencies": "mixture_from_frequencies",
    "mixtures.overlapping": "OverlappingMixture",
    "mixtures.task_mixture": "TaskMixture power_law",
    "prediction.estimate": "estimate_utilities",
    "prediction.measured": "estimate_from_runs",
    "prediction.predict": "predict",
    "scaling.fit": "fit_power_law fit_scaling_law",
    "scaling.laws": "PowerLaw Regimes ScalingLaw",
    "training.gradients": "interference",
    "training.streams": "Bursts",
    "training.train": "Recipe train",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = [
    "Bursts",
    "OverlappingMixture",
    "PowerLaw",
    "Recipe",
    "Regimes",
    "ScalingLaw",
    "TaskMixture",
    "adam_displacement",
    "conflict",
    "cosine_at_random",
    "critical_widths",
    "estimate_from_runs",
    "estimate_utilities",
    "fit_power_law",
    "fit_scaling_law",
    "floor",
    "flow_cycle",
    "frequent_tasks",
    "gap_regime",
    "gradient_cosines",
    "interference",
    "longest_gaps",
    "longest_kept_gaps",
    "minimal_widths",
    "mixture_from_frequencies",
    "mixture_losses",
    "period_growth",
    "power_law",
    "predict",
    "residual_width",
    "residuals",
    "task_losses",
    "task_signals",
    "tilt_growth",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
