"""Convert instances per batch, as in injection plans, to a mixture of injected tasks and corpus."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import whole
from olmo_inject.theory.mixtures.task_mixture import Basis, TaskMixture
from olmo_inject.utils.fraction_text import parse_fraction


def parse_rate(value: str | float | int | Fraction, where: str) -> Fraction:
    """Parse a positive number or a fraction such as 1/10, exactly as written.

    Raises:
        UserError: it is neither, or not above zero. The message begins with `where`.
    """
    rate = value if isinstance(value, Fraction) else parse_fraction(value, where)
    if rate <= 0:
        raise UserError(f"{where}: {value} is not above 0")
    return rate


def mixture_from_frequencies(
    names: Sequence[str],
    instances_per_batch: Sequence[str | float | int | Fraction],
    spectra: Sequence[Float[np.ndarray, " _"]],
    *,
    batch: int | None = None,
    background: TaskMixture | None = None,
    null_directions: int = 0,
    basis: Basis = "axis",
) -> TaskMixture:
    """The mixture that an injection plan trains on.

    Args:
        names: of the injected tasks.
        instances_per_batch: rate of each, as in the plan: a number, a Fraction or "1/10".
        spectra: spectrum of each.
        batch: number of instances in a batch, injected or not; needed with a background.
        background: the corpus as a mixture of its own tasks, which share what injection leaves of the batch.
            Without it the injected tasks only compete with each other.
        null_directions: input directions beyond all features.
        basis: of the result.

    Raises:
        UserError: a rate is impossible, or the injected instances leave nothing of the batch.
    """
    if not len(names) == len(instances_per_batch) == len(spectra):
        raise UserError(
            f"every task needs a name, a rate and a spectrum: got {len(names)} names, "
            f"{len(instances_per_batch)} rates and {len(spectra)} spectra"
        )
    rates = [
        parse_rate(rate, f"instances_per_batch of task {name!r}")
        for name, rate in zip(names, instances_per_batch, strict=True)
    ]
    total = sum(rates, Fraction(0))
    if background is None:
        if not rates:
            raise UserError("a mixture needs one or more tasks")
        shares = np.array([float(rate / total) for rate in rates])
        return TaskMixture(shares, tuple(spectra), tuple(names), null_directions, basis)
    if batch is None:
        raise UserError("batch is needed beside a background: the instances in a batch, e.g. 1024")
    batch = whole("batch", batch, 1)
    if total >= batch:
        raise UserError(f"the injected tasks fill {float(total):g} of a batch of {batch}: nothing is left")
    injected = np.array([float(rate / batch) for rate in rates])
    return TaskMixture(
        np.concatenate([injected, background.frequencies * float(1 - total / batch)]),
        (*spectra, *background.spectra),
        (*names, *background.names),
        null_directions,
        basis,
    )
