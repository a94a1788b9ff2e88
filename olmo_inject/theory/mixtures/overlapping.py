"""Tasks whose features overlap: the same problem with any Gram matrices instead of orthogonal blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import frozen, kind, listed, number, numbers, whole, wholes
from olmo_inject.theory.mixtures.mixture import Mixture

NOTHING = 1e-12
"""Eigenvalues below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class OverlappingMixture(Mixture):
    """Multi-task linear regression whose tasks may share directions.

    Unlike in `TaskMixture`, feature f has any unit direction: C_k = B_k Lambda_k B_k^T, M = sum pi_k C_k. The
    eigenvalues of M are not utilities of single features, but of slots that tasks share.

    Args:
        frequencies: pi, one per task; positive, sum 1.
        spectra: one array per task; positive.
        directions: a column of d numbers for every feature, task after task; only its direction counts.
        names: one per task; task-1, task-2, ... where none are given.

    Raises:
        UserError: a number or shape is impossible.
    """

    frequencies: Float[np.ndarray, " K"]
    spectra: tuple[Float[np.ndarray, " _"], ...]
    directions: Float[np.ndarray, "d F"]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_tasks()
        directions = numbers("directions", self.directions)
        if directions.ndim != 2 or directions.shape[1] != self.features:
            raise UserError(
                f"directions must have a column for each of {self.features} features, got the shape {directions.shape}"
            )
        lengths = np.linalg.norm(directions, axis=0)
        if not lengths.all():
            raise UserError(f"directions must not be zero: feature {int(lengths.argmin())} has none")
        object.__setattr__(self, "directions", frozen(directions / lengths))

    @classmethod
    def of(cls, mixture: Mixture) -> OverlappingMixture:
        """An orthogonal mixture as one of this kind.

        Raises:
            UserError: it is no mixture.
        """
        kind("mixture", mixture, Mixture)
        return cls(mixture.frequencies, mixture.spectra, mixture.directions, mixture.names)

    @classmethod
    def from_grams(
        cls, frequencies: object, grams: Sequence[Float[np.ndarray, "d d"]], names: tuple[str, ...] = ()
    ) -> OverlappingMixture:
        """Tasks by their Gram matrices C_k, symmetric and positive semidefinite.

        Args:
            frequencies: pi.
            grams: one d x d matrix per task, in the same input space.
            names: one per task.

        Raises:
            UserError: a matrix is neither, or zero, or of another size than the first.
        """
        grams = listed("grams", grams)
        spectra, columns = [], []
        for k, gram in enumerate(grams):
            values, vectors = _decomposed(f"Gram matrix {k}", gram)
            kept = values > NOTHING * values[0]
            spectra.append(values[kept])
            columns.append(vectors[:, kept])
        if len({len(column) for column in columns}) != 1:
            raise UserError("Gram matrices must be one or more, all of the same size")
        return cls(frequencies, tuple(spectra), np.concatenate(columns, axis=1), names)  # type: ignore[arg-type]

    @classmethod
    def from_overlaps(
        cls,
        frequencies: object,
        spectra: Sequence[Float[np.ndarray, " _"]],
        overlaps: Float[np.ndarray, "F F"],
        names: tuple[str, ...] = (),
    ) -> OverlappingMixture:
        """Tasks by the cosines of all pairs of features, B^T B: symmetric, ones on the diagonal, semidefinite.

        Args:
            frequencies: pi.
            spectra: one array per task.
            overlaps: of features, task after task.
            names: one per task.

        Raises:
            UserError: no directions have these cosines.
        """
        spectra = listed("spectra", spectra)
        values, vectors = _decomposed("overlaps", overlaps)
        if np.abs(np.diag(np.asarray(overlaps, dtype=np.float64)) - 1).max() > 1e-9:
            raise UserError("overlaps must have ones on the diagonal: the cosine of a feature with itself")
        kept = values > NOTHING * values[0]
        directions = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
        return cls(frequencies, tuple(spectra), directions, names)  # type: ignore[arg-type]

    @classmethod
    def superposed(cls, mixture: Mixture, dimension: int, seed: int = 0) -> OverlappingMixture:
        """The same tasks, each in random orthonormal directions of fewer (or more) dimensions.

        Args:
            mixture: the tasks; only their frequencies, spectra and names are used.
            dimension: d of the result.
            seed: of the directions.

        Raises:
            UserError: a task has more features than there are dimensions.
        """
        kind("mixture", mixture, Mixture)
        deepest = max(map(len, mixture.spectra))
        dimension = whole("dimension", dimension, deepest)
        generator = np.random.Generator(np.random.Philox(key=whole("seed", seed, 0)))
        columns = [np.linalg.qr(generator.standard_normal((dimension, len(s))))[0] for s in mixture.spectra]
        return cls(mixture.frequencies, mixture.spectra, np.concatenate(columns, axis=1), mixture.names)

    def turned(self, seed: int = 0) -> OverlappingMixture:
        """The same tasks in a random basis."""
        generator = np.random.Generator(np.random.Philox(key=whole("seed", seed, 0)))
        basis = np.linalg.qr(generator.standard_normal((self.dimension, self.dimension)))[0]
        return replace(self, directions=basis @ self.directions)

    @cached_property
    def _dual(self) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "F F"]]:
        """Eigenvalues and vectors of D^1/2 B^T B D^1/2, falling: M's spectrum without a d x d matrix."""
        scaled = self.directions * np.sqrt(self.utilities)
        values, vectors = np.linalg.eigh(scaled.T @ scaled)
        values = np.where(values > NOTHING * values[-1], values, 0.0)
        return values[::-1].copy(), vectors[:, ::-1].copy()

    @property
    def slots(self) -> Float[np.ndarray, " F"]:
        """mu, the eigenvalues of M in falling order: what the N-th latent explains."""
        return self._dual[0]

    @property
    def rank(self) -> int:
        """Number of slots above zero. A wider encoder gains nothing."""
        return int((self.slots > 0).sum())

    @cached_property
    def shares(self) -> Float[np.ndarray, "K F"]:
        """phi: task k's share of every slot. The shares of a slot sum to 1; without overlap they are 0 or 1."""
        return frozen(np.add.reduceat(self._dual[1] ** 2, self.starts[:-1], axis=0))

    def task_signals(self, widths: Iterable[int]) -> Float[np.ndarray, "W K"]:
        """s_k(N) = tr(P_N C_k) / tr C_k of the best encoder, which never falls with N."""
        held = np.cumsum(self.slots * self.shares, axis=1) / (self.frequencies * self.traces)[:, None]
        return held[:, np.minimum(self._widths(widths), self.features) - 1].T

    def task_losses(self, widths: Iterable[int]) -> Float[np.ndarray, "W K"]:
        """L_k(N): what the best encoder leaves of each task, summed from the small end."""
        left = np.cumsum((self.slots * self.shares)[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([left, np.zeros((self.tasks, 1))], axis=1) / self.frequencies[:, None]
        return padded[:, np.minimum(self._widths(widths), self.features)].T

    def mixture_losses(self, widths: Iterable[int]) -> Float[np.ndarray, " W"]:
        """L*(N): the slots beyond the N largest, summed."""
        tails = np.append(np.cumsum(self.slots[::-1])[::-1], 0.0)
        return tails[np.minimum(self._widths(widths), self.features)]

    def width_to(self, task: int, share: float) -> int:
        """The least width at which the best encoder holds this share of a task: there is no sharp critical width."""
        task, share = whole("task", task, 0, self.tasks - 1), number("share", share, above=0, at_most=1)
        signals = self.task_signals(range(1, min(self.features, self.dimension) + 1))[:, task]
        return int((signals >= share * (1 - 1e-12)).argmax()) + 1

    def loss_bracket(self, widths: Iterable[int]) -> tuple[Float[np.ndarray, " W"], Float[np.ndarray, " W"]]:
        """Bounds of L*(N) for any overlap: N slots for each task alone, and the value without overlap."""
        sizes = np.minimum(self._widths(widths), self.features)
        falling = np.append(np.cumsum(np.sort(self.utilities))[::-1], 0.0)
        own = [
            np.append(np.cumsum(np.sort(spectrum))[::-1], np.zeros(self.features - len(spectrum) + 1))
            for spectrum in self.spectra
        ]
        return self.frequencies @ np.array(own)[:, sizes], falling[sizes]

    def encoder(self, width: int) -> Float[np.ndarray, "N d"]:
        """The best encoder's rows: the first N eigenvectors of M; no more than there are slots."""
        count = min(int(self._widths([width])[0]), self.rank)
        values, vectors = self._dual
        rows = (self.directions * np.sqrt(self.utilities)) @ vectors[:, :count] / np.sqrt(values[:count])
        return np.linalg.qr(rows)[0].T

    def _widths(self, widths: Iterable[int]) -> Int[np.ndarray, " W"]:
        return wholes("width", widths, 1, self.dimension)


def _decomposed(name: str, matrix: Any) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Eigenvalues, falling, and vectors of a symmetric positive semidefinite matrix.

    Raises:
        UserError: it is not one.
    """
    values = numbers(name, matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise UserError(f"{name} must be a square matrix, got the shape {values.shape}")
    scale = np.abs(values).max()
    if not scale or np.abs(values - values.T).max() > 1e-9 * scale:
        raise UserError(f"{name} must be symmetric and not zero")
    eigenvalues, vectors = np.linalg.eigh((values + values.T) / 2)
    if eigenvalues[0] < -1e-9 * scale:
        raise UserError(f"{name} must be positive semidefinite, got the eigenvalue {eigenvalues[0]:.3g}")
    return eigenvalues[::-1].copy(), vectors[:, ::-1].copy()
