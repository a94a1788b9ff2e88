"""What all mixtures have: tasks with frequencies and spectra, and their features, stored task after task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import frozen, number, numbers, task_indices


class Mixture:
    """Multi-task linear regression: each task has a frequency and a few features of the input as its target.

    The base of `TaskMixture`, whose features are orthonormal, and `OverlappingMixture`, whose features may have any
    directions. Feature f belongs to `task_of[f]`.
    """

    frequencies: Float[np.ndarray, " K"]
    spectra: tuple[Float[np.ndarray, " _"], ...]
    names: tuple[str, ...]
    directions: Float[np.ndarray, "d F"]

    @property
    def dimension(self) -> int:
        """d, of the input."""
        return self.directions.shape[0]

    @property
    def on_axes(self) -> bool:
        """Whether feature f is coordinate f, so that products with features are slices."""
        return False

    @property
    def tasks(self) -> int:
        """K."""
        return len(self.frequencies)

    @property
    def features(self) -> int:
        """F, the features of all tasks together."""
        return len(self.eigenvalues)

    @cached_property
    def eigenvalues(self) -> Float[np.ndarray, " F"]:
        """The eigenvalue lambda of every feature."""
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
    def utilities(self) -> Float[np.ndarray, " F"]:
        """The utility nu = pi lambda of every feature. Without overlap these are the eigenvalues of M."""
        return frozen(self.frequencies[self.task_of] * self.eigenvalues)

    @cached_property
    def traces(self) -> Float[np.ndarray, " K"]:
        """The trace tr C_k of every task: its loss if nothing of it is held."""
        return frozen(np.add.reduceat(self.eigenvalues, self.starts[:-1]))

    def gram(self, tasks: Iterable[int] | None = None) -> Float[np.ndarray, "d d"]:
        """M, or the part of it that belongs to some of the tasks.

        Raises:
            UserError: a task is not from 0 to K - 1.
        """
        chosen = np.isin(self.task_of, task_indices(tasks, self.tasks))
        columns = self.directions[:, chosen]
        return (columns * self.utilities[chosen]) @ columns.T

    def index(self, name: str) -> int:
        """The index of the task with this name.

        Raises:
            UserError: no task has this name.
        """
        if name not in self.names:
            raise UserError(f"no task is called {name!r}: the mixture has {', '.join(self.names)}")
        return self.names.index(name)

    def turned(self, seed: int = 0) -> Mixture:
        """The same tasks in a random basis, which matters to coordinate-wise optimizers such as Adam.

        Raises:
            UserError: the seed is not a whole number of 0 or more.
        """
        raise NotImplementedError

    def _check_tasks(self) -> None:
        """Replace names, frequencies and spectra by checked copies that cannot be changed."""
        names, frequencies = _checked_tasks(self.frequencies, self.names, len(self.spectra))
        spectra = tuple(_checked_spectrum(name, spectrum) for name, spectrum in zip(names, self.spectra, strict=True))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "frequencies", frequencies)
        object.__setattr__(self, "spectra", spectra)


def _checked_tasks(
    frequencies: object, names: Sequence[str], count: int
) -> tuple[tuple[str, ...], Float[np.ndarray, " K"]]:
    """Names, task-1, task-2, ... where none are given, and frequencies.

    Raises:
        UserError: there is not one of each per task, two names are equal, or frequencies are not positive or do
            not sum to 1.
    """
    names = tuple(names) or tuple(f"task-{k + 1}" for k in range(count))
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"task names must be text, got {name!r}")
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


def _checked_spectrum(name: str, spectrum: object) -> Float[np.ndarray, " d_k"]:
    """A task's spectrum.

    Raises:
        UserError: it is empty or holds a number that is not positive and finite.
    """
    values = numbers(f"spectrum of task {name!r}", spectrum, above=0)
    if values.ndim != 1 or not len(values):
        raise UserError(f"spectrum of task {name!r} must be a list of one or more numbers")
    return frozen(values)
