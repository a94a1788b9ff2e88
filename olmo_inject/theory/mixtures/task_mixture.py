"""The synthetic problem: tasks with frequencies, each a few orthogonal features with a decaying spectrum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.inputs import choice, frozen, number, numbers, task_indices, whole

Basis = Literal["axis", "random"]

TIE = 1e-12
"""Utilities closer than this, relatively, are equal: rounding must not decide which feature comes first."""


@dataclass(frozen=True, eq=False)
class TaskMixture:
    """Multi-task linear regression, whose best width-N encoder is known in closed form.

    Inputs are isotropic, x in R^d. Task k has frequency pi_k and asks for y = Lambda_k^(1/2) B_k^T x, where
    the columns of B_k are its features and Lambda_k its spectrum; C_k = B_k Lambda_k B_k^T. The features of
    all tasks are orthonormal, and `null_directions` further input directions are asked for by no task.
    Features are kept flat, task after task: feature f belongs to `task_of[f]`.

    Args:
        frequencies: pi, one per task; positive, sum 1.
        spectra: one array per task; positive, not increasing.
        names: one per task; task-1, task-2, ... where none are given.
        null_directions: input directions that carry no task.
        basis: "axis" puts feature f on coordinate f; "random" rotates all, which matters to coordinate-wise
            optimizers such as Adam.
        basis_seed: of the random rotation.

    Raises:
        UserError: a frequency, spectrum or size is impossible.
    """

    frequencies: Float[np.ndarray, " K"]
    spectra: tuple[Float[np.ndarray, " _"], ...]
    names: tuple[str, ...] = ()
    null_directions: int = 0
    basis: Basis = "axis"
    basis_seed: int = 0

    def __post_init__(self) -> None:
        names, frequencies = checked_tasks(self.frequencies, self.names, len(self.spectra))
        spectra = tuple(checked_spectrum(name, spectrum) for name, spectrum in zip(names, self.spectra, strict=True))
        choice("basis", self.basis, get_args(Basis))
        object.__setattr__(self, "frequencies", frequencies)
        object.__setattr__(self, "spectra", spectra)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "null_directions", whole("null_directions", self.null_directions, 0))
        object.__setattr__(self, "basis_seed", whole("basis_seed", self.basis_seed, 0))
        self._check_spectra()

    def _check_spectra(self) -> None:
        rises = (np.diff(self.eigenvalues) > 0) & (np.diff(self.task_of) == 0)
        if rises.any():
            f = int(rises.argmax())
            before, after = self.eigenvalues[f : f + 2]
            raise UserError(
                f"spectrum of task {self.names[self.task_of[f]]!r} must not increase, "
                f"got {before:g} then {after:g} at feature {self.rank_of[f] + 1}"
            )

    @classmethod
    def power_law(
        cls,
        tasks: int = 20,
        features: int = 10,
        frequency_power: float = 1.7,
        spectrum_power: float | Sequence[float] | Float[np.ndarray, " K"] = 2.3,
        null_directions: int = 200,
        basis: Basis = "random",
        basis_seed: int = 0,
    ) -> TaskMixture:
        """pi_k proportional to k^-alpha, lambda_kj to j^-beta_k with unit trace; the defaults have no ties.

        Args:
            tasks: K.
            features: d_k, the same for all tasks.
            frequency_power: alpha.
            spectrum_power: beta, one for all tasks or one each.
            null_directions: input directions that carry no task.
            basis: "axis" or "random".
            basis_seed: of the random rotation.

        Raises:
            UserError: a size is below one.
        """
        tasks = whole("tasks", tasks, 1)
        powers = np.broadcast_to(numbers("spectrum_power", spectrum_power, at_least=0), tasks).tolist()
        return cls(
            frequencies=power_law(tasks, frequency_power),
            spectra=tuple(power_law(features, power) for power in powers),
            null_directions=null_directions,
            basis=basis,
            basis_seed=basis_seed,
        )

    def alone(self, task: int) -> TaskMixture:
        """One task trained on its own in the same input space: the control for "cannot" against "loses"."""
        task = whole("task", task, 0, self.tasks - 1)
        spectrum = self.spectra[task]
        return TaskMixture(
            frequencies=np.ones(1),
            spectra=(spectrum,),
            names=(self.names[task],),
            null_directions=self.dimension - len(spectrum),
            basis=self.basis,
            basis_seed=self.basis_seed,
        )

    @property
    def tasks(self) -> int:
        """K."""
        return len(self.frequencies)

    @property
    def features(self) -> int:
        """Features of all tasks together."""
        return len(self.eigenvalues)

    @property
    def dimension(self) -> int:
        """d: features and null directions."""
        return self.features + self.null_directions

    @cached_property
    def eigenvalues(self) -> Float[np.ndarray, " F"]:
        """Every feature's lambda."""
        return frozen(np.concatenate(self.spectra))

    @cached_property
    def starts(self) -> Int[np.ndarray, " _"]:
        """Task k's features are `starts[k]:starts[k + 1]`."""
        return frozen(np.concatenate([[0], np.cumsum([len(spectrum) for spectrum in self.spectra])]))

    @cached_property
    def task_of(self) -> Int[np.ndarray, " F"]:
        """The task of every feature, from 0."""
        return frozen(np.repeat(np.arange(self.tasks), np.diff(self.starts)))

    @cached_property
    def rank_of(self) -> Int[np.ndarray, " F"]:
        """j, every feature's place in its own task, from 1."""
        return frozen(np.arange(self.features) - self.starts[self.task_of] + 1)

    @cached_property
    def utilities(self) -> Float[np.ndarray, " F"]:
        """Every feature's nu = pi lambda: the eigenvalues of M."""
        return frozen(self.frequencies[self.task_of] * self.eigenvalues)

    @cached_property
    def learning_order(self) -> Int[np.ndarray, " F"]:
        """Features by falling utility; equals by task, so that a task's own always come in order."""
        return frozen(np.argsort(-self.utilities, kind="stable"))

    @cached_property
    def traces(self) -> Float[np.ndarray, " K"]:
        """Every tr C_k: the loss of a task of which nothing is held."""
        return frozen(np.add.reduceat(self.eigenvalues, self.starts[:-1]))

    @cached_property
    def directions(self) -> Float[np.ndarray, "d F"]:
        """B: the features' directions, orthonormal columns."""
        if self.basis == "axis":
            return frozen(np.eye(self.dimension, self.features))
        generator = np.random.Generator(np.random.Philox(key=self.basis_seed))
        basis, triangle = np.linalg.qr(generator.standard_normal((self.dimension, self.features)))
        return frozen(basis * np.sign(np.diag(triangle)))

    def gram(self, tasks: Iterable[int] | None = None) -> Float[np.ndarray, "d d"]:
        """M, or the part of it that belongs to some of the tasks."""
        chosen = np.isin(self.task_of, task_indices(tasks, self.tasks))
        kept = self.directions[:, chosen]
        return (kept * self.utilities[chosen]) @ kept.T

    def index(self, name: str) -> int:
        """The place of a task.

        Raises:
            UserError: no task has this name.
        """
        if name not in self.names:
            raise UserError(f"no task is called {name!r}: the mixture has {', '.join(self.names)}")
        return self.names.index(name)


def checked_tasks(
    frequencies: object, names: Sequence[str], count: int
) -> tuple[tuple[str, ...], Float[np.ndarray, " K"]]:
    """Names, task-1, task-2, ... where none are given, and frequencies, copied so that nobody can change them.

    Raises:
        UserError: there is not one of each per task, two names are equal, or frequencies are not positive or do
            not sum to 1.
    """
    names = tuple(names) or tuple(f"task-{k + 1}" for k in range(count))
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"task names must be words, got {name!r}")
    given = numbers("frequencies", frequencies)
    if not (given.ndim == 1 and 0 < len(given) == count == len(names)):
        raise UserError(
            "a mixture needs one frequency, spectrum and name per task: "
            f"got {given.size} frequencies, {count} spectra and {len(names)} names"
        )
    if len(set(names)) < len(names):
        raise UserError(f"task names must differ, got {', '.join(names)}")
    shares = [number(f"frequency of task {name!r}", share, above=0) for name, share in zip(names, given, strict=True)]
    if abs(sum(shares) - 1) > 1e-9:
        raise UserError(f"task frequencies must sum to 1, got {sum(shares):.10g}")
    return names, frozen(np.array(shares))


def checked_spectrum(name: str, spectrum: object) -> Float[np.ndarray, " d_k"]:
    """A task's spectrum, copied.

    Raises:
        UserError: it is empty or holds a number that is not positive and finite.
    """
    values = numbers(f"spectrum of task {name!r}", spectrum, above=0)
    if values.ndim != 1 or not len(values):
        raise UserError(f"spectrum of task {name!r} must be a list of one or more numbers")
    return frozen(values)


def power_law(count: int, power: float) -> Float[np.ndarray, " count"]:
    """1, 2^-power, 3^-power, ... divided by their sum.

    Raises:
        UserError: `count` is below one, or `power` is negative or not a number.
    """
    count = whole("the length of a power law", count, 1)
    power = number("the exponent of a power law", power, at_least=0)
    values = np.arange(1, count + 1, dtype=np.float64) ** -power
    return values / values.sum()
