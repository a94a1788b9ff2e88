"""Subspaces of a space of any width: random ones, the lowest of a quadratic form, and descent among them.

A subspace is given by orthonormal rows, and all bases of it are one point (of the Grassmann manifold). A gradient's
part within the subspace only turns the basis, so it is left out. What is left has a length that does not depend on how
the space is turned, so steps are measured as angles, and an angle means the same at every width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from olmo_inject.randomness import bits, key

Basis = Float[torch.Tensor, "k d"]
MEMORY, MEMORY_OF_LENGTH = 0.9, 0.99  # of the gradient and of its squared length, as Adam's betas
KRYLOV_STEPS = 8


def orthonormal(rows: Float[torch.Tensor, "k d"]) -> Basis:
    """Orthonormal rows that span what the given ones do, each as near to its own as those before it allow."""
    columns, triangle = torch.linalg.qr(rows.T)
    return torch.where(triangle.diagonal() < 0, -columns, columns).T.contiguous()


def gaussian(n: int, width: int, purpose: str) -> Float[torch.Tensor, "n d"]:
    """Rows of independent standard normal numbers, the same each time."""
    words = bits(key("das basis", purpose), 2 * width * n)
    uniform = (words >> np.uint64(11)).astype(np.float64) / 2**53
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[: width * n])), 2 * np.pi * uniform[width * n :]
    return torch.from_numpy(radius * np.cos(angle)).reshape(width, n).T.float()  # Box and Muller 1958


def random_basis(width: int, dimension: int, purpose: str) -> Basis:
    """Orthonormal rows in a random direction, the same each time."""
    return orthonormal(gaussian(dimension, width, purpose))


def lowest(
    form: Callable[[Float[torch.Tensor, "k d"]], Float[torch.Tensor, "k d"]], start: Float[torch.Tensor, "k d"]
) -> Basis:
    """Eigenvectors of the smallest eigenvalues of a symmetric matrix, nearly; the smallest first.

    By block Krylov iteration (Musco and Musco 2015): some products with the matrix, which is never written out.

    Args:
        form: the matrix times each row.
        start: as many rows as eigenvectors are wanted.
    """
    blocks = [orthonormal(start)]
    for _ in range(KRYLOV_STEPS):
        blocks.append(orthonormal(form(blocks[-1])))
    within = orthonormal(torch.cat(blocks)[: start.shape[1]])
    _, vectors = torch.linalg.eigh(form(within) @ within.T)
    return orthonormal(vectors[:, : len(start)].T @ within)


class Descent:
    """Adam among subspaces (Becigneul and Ganea 2019): one second moment for the whole, the gradient's squared length.

    Args:
        start: orthonormal rows.
        angle: in radians, how far a step turns the subspace where gradients agree.

    Attributes:
        basis: orthonormal rows, where it is now.
        angle: of the next steps.
    """

    def __init__(self, start: Basis, angle: float) -> None:
        self.basis, self.angle = start, angle
        self._mean = torch.zeros_like(start)
        self._length = start.new_zeros(())
        self._steps = 0

    def step(self, gradient: Float[torch.Tensor, "k d"]) -> None:
        """Turn the subspace against the mean of the gradients so far."""
        self._steps += 1
        across = self._across(gradient)
        self._mean = MEMORY * self._across(self._mean) + (1 - MEMORY) * across
        self._length = MEMORY_OF_LENGTH * self._length + (1 - MEMORY_OF_LENGTH) * across.square().sum()
        mean = self._mean / (1 - MEMORY**self._steps)
        length = (self._length / (1 - MEMORY_OF_LENGTH**self._steps)).sqrt().clamp_min(1e-20)
        self.basis = orthonormal(self.basis - self.angle * mean / length)

    def _across(self, rows: Float[torch.Tensor, "k d"]) -> Float[torch.Tensor, "k d"]:
        """The part that leaves the subspace."""
        return rows - rows @ self.basis.T @ self.basis
