"""Validation of tensors, like that of numbers in `arguments`: one line that names the argument and what is allowed.

The functions of a training step only check sizes (`sized`): a check of every number takes longer than the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo_inject.errors import UserError, in_one_line

OFF = 1e-4
"""Allowed error of the products of an encoder's rows, which are float32 in training and orthonormalised cheaply."""


def sized(name: str, value: object, *last: int | None) -> Tensor:
    """A float32 or float64 tensor whose last sizes are these; None is any size of one or more.

    Raises:
        UserError: it is no such tensor.
    """
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
        got = f"one of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{name} must be a tensor of torch.float32 or torch.float64, got {got}")
    shape = value.shape
    position = len(shape) - len(last)
    fits = position >= 0
    for wanted in last if fits else ():
        fits = fits and (shape[position] == wanted if wanted is not None else shape[position] > 0)
        position += 1
    if not fits:
        words = ", ".join("any" if wanted is None else str(wanted) for wanted in last)
        raise UserError(f"{name} must be a tensor whose last sizes are ({words}), got the shape {tuple(shape)}")
    return value


def real(name: str, value: object, *last: int | None) -> Tensor:
    """Check a tensor as `sized` does, and that its numbers are finite.

    Raises:
        UserError: it is no such tensor, or holds an infinity or NaN.
    """
    checked = sized(name, value, *last)
    if not bool(torch.isfinite(checked).all()):
        raise UserError(f"{name} must hold finite numbers")
    return checked


def orthonormal(name: str, value: object, dimension: int | None = None) -> Tensor:
    """An encoder: one or more orthonormal rows of finite numbers.

    Args:
        name: of the argument, for the message.
        value: what was given.
        dimension: d, the length of a row; any where None.

    Raises:
        UserError: it is none.
    """
    rows = real(name, value, None, dimension)
    products = rows.detach() @ rows.detach().mT
    off = float((products - torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)).abs().max())
    if off > OFF:
        raise UserError(f"{name} must have orthonormal rows, got products that are off by {off:.3g}")
    return rows


def gram_matrix(name: str, value: object, dimension: int | None = None) -> Tensor:
    """A symmetric positive semidefinite matrix of finite numbers.

    Args:
        name: of the argument, for the message.
        value: what was given.
        dimension: d, of the rows and columns; any where None.

    Raises:
        UserError: it is none.
    """
    matrix = real(name, value, None, dimension)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"{name} must be a square matrix, got the shape {tuple(matrix.shape)}")
    if float((matrix - matrix.T).abs().max()) > 1e-5 * float(matrix.abs().max()):
        raise UserError(f"{name} must be symmetric")
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    if smallest < -1e-5 * float(matrix.abs().max()):
        raise UserError(f"{name} must be positive semidefinite, got the eigenvalue {smallest:.3g}")
    return matrix


def check_dtype(value: object) -> None:
    """Check that numbers are trained or measured in single or double precision.

    Raises:
        UserError: it is neither torch.float32 nor torch.float64.
    """
    if value not in (torch.float32, torch.float64):
        raise UserError(f"dtype must be torch.float32 or torch.float64, got {value}")


def check_device(value: object) -> None:
    """Check that torch has this device here.

    Raises:
        UserError: it is no name of a device, or the machine has none of it.
    """
    try:
        torch.empty(0, device=value)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f"device must be one that torch has here, got {value!r}: {in_one_line(error)}") from None
