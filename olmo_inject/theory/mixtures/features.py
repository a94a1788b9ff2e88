"""A mixture's features as tensors, stored so that training never multiplies by zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, whole
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.tensors import check_device, check_dtype, real, sized


class FeatureBank:
    """The features of a mixture, or of one of its tasks, on one device.

    Encoders are kept as torch.nn.Linear keeps weights: U has a row per latent, so that many of them times
    one matrix are a single product. On the axis basis features are coordinates, and products are slices.

    Args:
        mixture: the tasks.
        dtype: of all products, torch.float32 or torch.float64.
        device: torch's name of it.

    Raises:
        UserError: an argument is invalid, or the machine has no such device.
    """

    def __init__(self, mixture: Mixture, dtype: torch.dtype, device: torch.device | str) -> None:
        kind("mixture", mixture, Mixture)
        check_dtype(dtype)
        check_device(device)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.dimension = mixture.dimension
        self.first = 0
        self.eigenvalues = tensor(mixture.eigenvalues)
        self.frequencies = tensor(mixture.frequencies)
        self.task_of = torch.tensor(mixture.task_of, device=device)
        self.directions = None if mixture.on_axes else tensor(mixture.directions)

    def only(self, task: int) -> FeatureBank:
        """The features of one task."""
        task = whole("task", task, 0, len(self.frequencies) - 1)
        chosen = torch.nonzero(self.task_of == task).flatten()
        part = slice(int(chosen[0]), int(chosen[-1]) + 1)
        bank = object.__new__(FeatureBank)
        bank.dimension = self.dimension
        bank.first = self.first + part.start
        bank.eigenvalues = self.eigenvalues[part]
        bank.frequencies = self.frequencies
        bank.task_of = self.task_of[part]
        bank.directions = None if self.directions is None else self.directions[:, part]
        return bank

    def project(self, rows: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n F"]:
        """The components of each row along the features: X B."""
        sized("rows", rows, self.dimension)
        if self.directions is None:
            return rows[..., self.first : self.first + len(self.eigenvalues)]
        return rows @ self.directions

    def lift(self, components: Float[Tensor, "*batch n F"]) -> Float[Tensor, "*batch n d"]:
        """The rows that have these components along the features and no others: Y B^T."""
        sized("components", components, len(self.eigenvalues))
        if self.directions is None:
            after = self.dimension - self.first - len(self.eigenvalues)
            return torch.nn.functional.pad(components, (self.first, after))
        return components @ self.directions.T

    def moment(self, weights: Float[Tensor, " F"]) -> Callable[[Tensor], Tensor]:
        """The product with B diag(weights) B^T from the right, prepared for many calls."""
        sized("weights", weights, len(self.eigenvalues))
        if self.directions is None:
            diagonal = self.lift(weights[None])[0]
            return lambda rows: rows * diagonal
        dense = (self.directions * weights) @ self.directions.T
        return lambda rows: rows @ dense


def orthonormalised(rows: Float[Tensor, "*batch N d"]) -> Float[Tensor, "*batch N d"]:
    """The orthonormal rows of a QR factorisation with a positive diagonal, which is unique.

    It uses Cholesky of the Gram matrix if that is exact to rounding, and otherwise Householder reflections.

    Raises:
        UserError: there are no rows, more than can be independent, or numbers that are not finite.
    """
    _independent(real("rows", rows, None, None))
    factor, failed = torch.linalg.cholesky_ex(rows @ rows.mT)
    diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
    if failed.any() or (diagonal.amin(-1) < 0.1 * diagonal.amax(-1)).any():
        return _by_reflections(rows)
    return _solved(factor, rows)


def retracted(rows: Float[Tensor, "*batch N d"]) -> Float[Tensor, "*batch N d"]:
    """`orthonormalised` for the rows of a training step: only matrix products, with fewer checks.

    A step starts from orthonormal rows, so Cholesky is nearly exact, and the next step corrects its error.

    Raises:
        UserError: there are no rows, or more than can be independent.
    """
    _independent(sized("rows", rows, None, None))
    factor, failed = torch.linalg.cholesky_ex(rows @ rows.mT)
    # If rows are dependent, the last pivot is rounding, and whether Cholesky fails depends on the machine.
    independent = torch.diagonal(factor, dim1=-2, dim2=-1).amin() >= 1e-3
    return _solved(factor, rows) if independent and not failed.any() else _by_reflections(rows)


def _independent(rows: Tensor) -> None:
    if rows.shape[-2] > rows.shape[-1]:
        raise UserError(f"at most {rows.shape[-1]} rows of this length can be independent, got {rows.shape[-2]}")


def _solved(factor: Tensor, rows: Tensor) -> Tensor:
    # Solving from the right needs no copies, since row-major rows are LAPACK's column-major matrix.
    return torch.linalg.solve_triangular(factor.mT, rows.mT, upper=True, left=False).mT


def _by_reflections(rows: Tensor) -> Tensor:
    basis, triangle = torch.linalg.qr(rows.mT)
    return (basis * torch.diagonal(triangle, dim1=-2, dim2=-1).sign()[..., None, :]).mT


def random_encoder(width: int, dimension: int, seed: int) -> Float[Tensor, "N d"]:
    """Haar-distributed orthonormal rows in float64, the same on every device.

    Args:
        width: N, the number of rows.
        dimension: d, the length of a row.
        seed: of the draw.

    Raises:
        UserError: the width is not from 1 to d, or the seed is negative.
    """
    dimension = whole("dimension", dimension, 1)
    width = whole("width", width, 1, dimension)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    return orthonormalised(torch.randn(width, dimension, generator=generator, dtype=torch.float64))
