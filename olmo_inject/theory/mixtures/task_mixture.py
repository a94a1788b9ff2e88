"""The synthetic problem: tasks with frequencies, each with a few orthogonal features and a decaying spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import choice, frozen, number, numbers, whole
from olmo_inject.theory.mixtures.mixture import Mixture

Basis = Literal["axis", "random"]

TIE = 1e-12
"""Utilities closer than this, relatively, are equal: rounding must not decide which feature comes first."""

LONGEST = 10_000_000
"""The longest power law: 80 MB, and no more tasks or features of one than that."""


@dataclass(frozen=True, eq=False)
class TaskMixture(Mixture):
    """Multi-task linear regression, whose best width-N encoder is known in closed form.

    Inputs are isotropic, x in R^d. Task k has frequency pi_k and target y = Lambda_k^(1/2) B_k^T x, where the columns
    of B_k are its features and Lambda_k its spectrum; C_k = B_k Lambda_k B_k^T. The features of all tasks are
    orthonormal. No task uses the `null_directions` further input directions. Features are stored task after task:
    feature f belongs to `task_of[f]`.

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
        self._check_tasks()
        choice("basis", self.basis, get_args(Basis))
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
        """One task on its own in the same input space: the control that tells "cannot hold" from "loses"."""
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

    def turned(self, seed: int = 0) -> TaskMixture:
        """The same tasks in a random basis."""
        return replace(self, basis="random", basis_seed=seed)

    @property
    def dimension(self) -> int:
        """d: features and null directions."""
        return self.features + self.null_directions

    @property
    def on_axes(self) -> bool:
        """Whether feature f is coordinate f: on the "axis" basis."""
        return self.basis == "axis"

    @cached_property
    def rank_of(self) -> Int[np.ndarray, " F"]:
        """j, the index of every feature in its own task, from 1."""
        return frozen(np.arange(self.features) - self.starts[self.task_of] + 1)

    @cached_property
    def learning_order(self) -> Int[np.ndarray, " F"]:
        """Features by falling utility. Equal ones are ordered by task, so that a task's features stay in order."""
        return frozen(np.argsort(-self.utilities, kind="stable"))

    @cached_property
    def directions(self) -> Float[np.ndarray, "d F"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """B: the features' directions, orthonormal columns."""
        if self.on_axes:
            return frozen(np.eye(self.dimension, self.features))
        generator = np.random.Generator(np.random.Philox(key=self.basis_seed))
        basis, triangle = np.linalg.qr(generator.standard_normal((self.dimension, self.features)))
        return frozen(basis * np.sign(np.diag(triangle)))


def power_law(count: int, power: float) -> Float[np.ndarray, " count"]:
    """1, 2^-power, 3^-power, ... divided by their sum.

    Raises:
        UserError: `count` is below one or above `LONGEST`, or `power` is negative or not a number.
    """
    count = whole("the length of a power law", count, 1, LONGEST)
    power = number("the exponent of a power law", power, at_least=0)
    values = np.arange(1, count + 1, dtype=np.float64) ** -power
    return values / values.sum()
