"""One row of a validation: a measured value and its tolerance."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

Relation = Literal["<=", "<", ">=", "=="]
_COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True)
class AcceptanceMeasure:
    """A measured number with its tolerance.

    Args:
        check: number of the acceptance check it belongs to.
        what: description in a few words.
        value: the measured value.
        relation: how `value` must relate to `tolerance`.
        tolerance: the specified tolerance.
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
