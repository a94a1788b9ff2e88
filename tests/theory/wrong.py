"""Nonsense of every kind, one list for each kind of argument, and what must come of it: one line, never a result."""

import inspect
import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from olmo_inject.errors import UserError
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture
from olmo_inject.theory.mixtures.task_mixture import TaskMixture

MIXTURE = TaskMixture.power_law(4, 3, null_directions=4)
TANGLED = OverlappingMixture.superposed(MIXTURE, 9)

NEVER = [math.nan, math.inf, -math.inf, "x", True, 1j, None, object(), [[1], [1, 2]]]
NUMBER = [*NEVER, -1.0, [1.0, 2.0]]
WHOLE = [*NUMBER, 2.5, np.nan, np.float64(1e300)]
NUMBERS = [math.nan, [1.0, math.inf], "x", [True, False], 1j, np.array([1j]), None, -1.0, [[1], [1, 2]]]
WHOLES = [[math.nan], [2.5], ["x"], [True, False], [1j], [-1], np.array([0.5]), [10**30], 3, None, [[1, 2]]]
TASKS = [[-1], [99], [0.5], [math.nan], np.array([True, False, True, False]), [True], "01", 3, ["x"], {1j}]
WORD = ["Adam", "", None, 3, ["axis"]]
MIXTURES = [None, "x", 3, [0.5, 0.5]]
# Of a tensor sizes are checked everywhere, numbers wherever that costs no training step its speed.
SIZES = [None, "x", 3.0, np.ones((2, 16)), torch.ones(2, 3), torch.ones(2, 16, dtype=torch.int64), torch.ones(())]
ENCODERS = [*SIZES, torch.ones(0, 16), torch.full((2, 16), math.nan), torch.ones(2, 16), torch.eye(17)[:, :16]]
GRAMS = [
    *SIZES,
    torch.ones(16),
    torch.full((16, 16), math.inf),
    -torch.eye(16),
    torch.eye(16) + torch.ones(16).diag(1)[:16, :16],
]

Row = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]
"""A function, arguments at which it works, and wrong values for some of them."""


def rows(public: list[Row]) -> pytest.MarkDecorator:
    """A test for every row, named by its function."""
    names = [getattr(row[0], "__qualname__", "?") for row in public]
    return pytest.mark.parametrize(("function", "right", "wrong"), public, ids=names)


def check_refused(function: Callable[..., Any], right: dict[str, Any], wrong: dict[str, list[Any]]) -> None:
    """It works at the right arguments; with any of them replaced by a wrong one it says so in one line."""
    function(**right)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UserError) as caught:
                pytest.fail(f"{name}={value!r} gives {function(**{**right, name: value})!r}")
            assert "\n" not in str(caught.value)


def untested(public: list[Row], modules: Iterable[ModuleType]) -> set[str]:
    """The public functions and classes of some modules that no row is about."""
    tested = {getattr(row[0], "__qualname__", "").split(".")[0] for row in public}
    found = set()
    for module in modules:
        for name, value in vars(module).items():
            here = getattr(value, "__module__", None) == module.__name__
            if here and not name.startswith("_") and inspect.isroutine(value) | inspect.isclass(value):
                found.add(name)
    return found - tested
