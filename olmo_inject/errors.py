"""The exception for a user's mistake, and its report. Internal invariants are asserts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from olmo_inject.rank_environment import is_first_rank
from olmo_inject.visible_text import visible

INTERRUPTED = 130  # exit status after Ctrl-C or SIGTERM, as in a shell


class UserError(Exception):
    """A mistake that the user can correct; the message is one line: what, where and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """


class FoundByOneRank(UserError):
    """A user's mistake that only one rank knows of. That rank reports it, instead of rank 0."""


def in_one_line(error: Exception | str) -> str:
    """What a library says, in one line; the name of the error's type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def report(error: UserError) -> None:
    """Print the message on standard error. If all ranks know of the mistake, only rank 0 prints it."""
    if isinstance(error, FoundByOneRank) or is_first_rank():
        # A loader worker's error arrives with its traceback in front; the last line is the message.
        line = str(error).strip().splitlines()[-1]
        print(f"olmo-inject: {visible(line.removeprefix(_WORKER_PREFIX))}", file=sys.stderr, flush=True)


@contextmanager
def reported() -> Iterator[None]:
    """For scripts: a user's mistake in the body ends the process with one line and status 2, Ctrl-C with 130."""
    try:
        yield
    except UserError as error:
        report(error)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        report(UserError("interrupted; the same command continues"))
        raise SystemExit(INTERRUPTED) from None


_WORKER_PREFIX = f"{FoundByOneRank.__module__}.{FoundByOneRank.__name__}: "
