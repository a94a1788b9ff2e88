"""Frequencies as exact fractions, and the three units in which they are given (docs/study.md, Injection)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

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
