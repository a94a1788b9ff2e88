"""Frequencies as exact fractions, and the three units in which they are given (docs/study.md, Injection)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from olmo_inject.errors import UserError

UNITS = ("instances_per_batch", "per_sequence", "per_token")


@dataclass(frozen=True)
class Frequency:
    """A frequency in instances per batch, which it converts to instances per sequence and per token."""

    per_batch: Fraction
    batch_size: int
    sequence_length: int

    @property
    def per_sequence(self) -> Fraction:
        """Instances per training sequence."""
        return self.per_batch / self.batch_size

    @property
    def per_token(self) -> Fraction:
        """Instances per training token."""
        return self.per_sequence / self.sequence_length

    @classmethod
    def in_unit(cls, unit: str, value: Fraction, batch_size: int, sequence_length: int) -> Frequency:
        """The frequency of `value` in `unit`.

        Args:
            unit: one of `UNITS`.
            value: the frequency in that unit.
            batch_size: rows in a global batch.
            sequence_length: tokens in a row.
        """
        scale = {
            "instances_per_batch": 1,
            "per_sequence": batch_size,
            "per_token": batch_size * sequence_length,
        }
        return cls(value * scale[unit], batch_size, sequence_length)


def parse_fraction(value: object, where: str) -> Fraction:
    """Parse an exact non-negative fraction from `1/10`, `0.1`, `2.4e-8` or a number; 0.1 means one tenth.

    Raises:
        UserError: the value is not a finite number, or is negative.
    """
    # A YAML 0.1 arrives as the nearest double, whose shortest decimal is what the user wrote.
    text = str(value).strip()
    try:
        # At most three digits of exponent, since 1e-999999999 would be a fraction with a billion digits.
        if isinstance(value, bool) or not re.fullmatch(r"[0-9.+\-]+([eE][+\-]?[0-9]{1,3})?( ?/ ?[0-9]+)?", text):
            raise ValueError
        fraction = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{where}: {value!r} is not a number or a fraction such as 1/10") from None
    if fraction < 0:
        raise UserError(f"{where}: {value} is negative")
    return fraction
