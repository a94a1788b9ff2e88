"""The exception for a user's mistake, and how it is reported; internal invariants are asserts."""

from __future__ import annotations

import sys

from olmo_inject.rank_environment import is_first_rank
from olmo_inject.visible_text import visible


class UserError(Exception):
    """A mistake the user can mend: one line that says what, where and what is allowed.

    The command line prints the message without a traceback and exits with status 2.
    """


class FoundByOneRank(UserError):
    """A user's mistake that only the rank that met it knows of, so that rank reports it and not rank 0."""


def report(error: UserError) -> None:
    """Print the one line of a mistake on standard error; one that all ranks know of is rank 0's to print."""
    if isinstance(error, FoundByOneRank) or is_first_rank():
        # A loader worker's error arrives with its traceback in front; the last line is the message.
        line = str(error).strip().splitlines()[-1]
        print(f"olmo-inject: {visible(line.removeprefix(_WORKER_PREFIX))}", file=sys.stderr, flush=True)


_WORKER_PREFIX = f"{FoundByOneRank.__module__}.{FoundByOneRank.__name__}: "
