"""One row of a validation: what was measured, and what it was allowed to be."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

Relation = Literal["<=", "<", ">=", "=="]
_COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True)
class Measure:
    """A measured number beside its tolerance.

    Args:
        check: the acceptance check it belongs to, by number.
        what: in a few words.
        value: as measured.
        relation: how `value` must stand to `tolerance`.
        tolerance: as specified.
    """

    check: int
    what: str
    value: float
    relation: Relation
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the value is allowed. NaN never is."""
        return bool(_COMPARE[self.relation](self.value, self.tolerance))


@dataclass(frozen=True)
class Effort:
    """How much work a validation does.

    Args:
        quick: smaller problems and fewer steps, under the same tolerances.
    """

    quick: bool = False

    def choose(self, full: int, quick: int) -> int:
        """One of two sizes."""
        return quick if self.quick else full
