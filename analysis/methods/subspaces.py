"""Subspaces of a space of any width: random ones, lowest eigenspaces of a quadratic form, and gradient descent.

A subspace is given by orthonormal rows; all its bases are one point of the Grassmann manifold. The part of a gradient
within the subspace only rotates the basis, so it is removed. The length of the rest does not depend on the choice of
basis. Step sizes are angles, which mean the same at every width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from olmo_inject.randomness import bits, key

Basis = Float[torch.Tensor, "k d"]
MEMORY, MEMORY_OF_LENGTH = 0.9, 0.99  # Adam's betas: for the gradient and for its squared length
KRYLOV_STEPS = 8


def orthonormal(rows: Float[torch.Tensor, "k d"]) -> Basis:
    """Orthonormalize the rows by QR, keeping their directions where possible."""
    columns, triangle = torch.linalg.qr(rows.T)
    return torch.where(triangle.diagonal() < 0, -columns, columns).T.contiguous()


def gaussian(n: int, width: int, purpose: str) -> Float[torch.Tensor, "n d"]:
    """Rows of independent standard normal numbers; the same purpose gives the same numbers.

    Args:
        n: number of rows.
        width: length of a row.
        purpose: key of the random draws.
    """
    words = bits(key("das basis", purpose), 2 * width * n)
    uniform = (words >> np.uint64(11)).astype(np.float64) / 2**53
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[: width * n])), 2 * np.pi * uniform[width * n :]
    return torch.from_numpy(radius * np.cos(angle)).reshape(width, n).T.float()  # Box and Muller 1958


def random_basis(width: int, dimension: int, purpose: str) -> Basis:
    """The basis of a random subspace; the same purpose gives the same subspace.

    Args:
        width: dimension of the whole space.
        dimension: dimension of the subspace.
        purpose: key of the random draws.
    """
    return orthonormal(gaussian(dimension, width, purpose))


def lowest(
    form: Callable[[Float[torch.Tensor, "k d"]], Float[torch.Tensor, "k d"]], start: Float[torch.Tensor, "k d"]
) -> Basis:
    """Approximate eigenvectors of the smallest eigenvalues of a symmetric matrix, the smallest first.

    The method is block Krylov iteration (Musco and Musco 2015). It needs a few products with the matrix, which is never
    formed.

    Args:
        form: multiplies each row by the matrix.
        start: one row per wanted eigenvector.
    """
    blocks = [orthonormal(start)]
    for _ in range(KRYLOV_STEPS):
        blocks.append(orthonormal(form(blocks[-1])))
    within = orthonormal(torch.cat(blocks)[: start.shape[1]])
    _, vectors = torch.linalg.eigh(form(within) @ within.T)
    return orthonormal(vectors[:, : len(start)].T @ within)


class Descent:
    """Adam on subspaces (Becigneul and Ganea 2019), with one second moment for the whole gradient.

    Args:
        start: orthonormal rows.
        angle: how far one step turns the subspace if gradients agree, in radians.

    Attributes:
        basis: orthonormal rows of the current subspace.
        angle: of the next steps, in radians.
    """

    def __init__(self, start: Basis, angle: float) -> None:
        self.basis, self.angle = start, angle
        self._mean = torch.zeros_like(start)
        self._length = start.new_zeros(())
        self._steps = 0

    def step(self, gradient: Float[torch.Tensor, "k d"]) -> None:
        """Turn the subspace against the running mean of the gradients."""
        self._steps += 1
        across = self._across(gradient)
        self._mean = MEMORY * self._across(self._mean) + (1 - MEMORY) * across
        self._length = MEMORY_OF_LENGTH * self._length + (1 - MEMORY_OF_LENGTH) * across.square().sum()
        mean = self._mean / (1 - MEMORY**self._steps)
        length = (self._length / (1 - MEMORY_OF_LENGTH**self._steps)).sqrt().clamp_min(1e-20)
        self.basis = orthonormal(self.basis - self.angle * mean / length)

    def _across(self, rows: Float[torch.Tensor, "k d"]) -> Float[torch.Tensor, "k d"]:
        """The part of the rows orthogonal to the subspace."""
        return rows - rows @ self.basis.T @ self.basis
