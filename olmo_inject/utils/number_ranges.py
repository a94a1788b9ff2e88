"""Ranges of numbers that a setting or an option may take, with their wording for error messages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from olmo_inject.errors import UserError

INT32 = 2**31 - 1
MOST_PARTS = 1000  # of a command's work, so that a job array holds them: SLURM's default limit is 1,001
MOST_ROWS = 2**20  # maximum rows of a batch, since some arrays have an entry for each row


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`.

    Attributes:
        low: smallest number.
        high: largest number; None: no limit.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
        null: whether the message also offers null.
    """

    low: int | float = 0
    high: int | float | None = None
    above: bool = False
    below: bool = False
    null: bool = False

    def holds(self, value: int | float) -> bool:
        """Whether `value` is in the range."""
        if not math.isfinite(value) or value < self.low or (self.above and value == self.low):
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    def __str__(self) -> str:
        """The range in words."""
        words = f"above {self.low:,}" if self.above else f"at least {self.low:,}"
        if self.high is not None:
            words += f" and {'below' if self.below else 'at most'} {self.high:,}"
        return words + (", or null" if self.null else "")


NUMBER, COUNT, FROM_0 = Range(above=True), Range(1, INT32), Range(0, INT32)
SHARE, NOT_NEGATIVE = Range(0, 1, below=True), Range()


def check_ranks_share(batch_size: int, ranks: int, where: str) -> None:
    """Check that each rank has as many rows of a batch as the others.

    Args:
        batch_size: rows of a batch.
        ranks: number of ranks.
        where: what sets one of the two, to begin the message.

    Raises:
        UserError: the batch is not divisible by the ranks.
    """
    if batch_size % ranks:
        raise UserError(f"{where}: a batch of {batch_size} rows is not divisible by {ranks} ranks")
