"""Let ranks agree on an error that one of them met, and on what rank 0 has read. One process agrees with itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch.distributed as dist

from olmo_inject.errors import UserError, in_one_line

T = TypeVar("T")


def is_group() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether this process is rank 0, or alone."""
    return not is_group() or dist.get_rank() == 0


@contextmanager
def on_every_rank(what: str) -> Iterator[None]:
    """Run local work on all ranks. An error on any rank raises the same `UserError` on every rank.

    The body must not communicate: a rank that fails leaves it early, and the others would wait for it.

    Args:
        what: start of the message for errors that are not yet a `UserError`.
    """
    problem: str | None = None
    cause: Exception | None = None
    try:
        yield
    except UserError as error:
        problem, cause = str(error), error
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else in_one_line(error)
        problem, cause = f"{what}: {reason}", error
    problems = [problem]
    if is_group():
        problems = [None] * dist.get_world_size()
        dist.all_gather_object(problems, problem)
    for problem in problems:
        if problem is not None:
            raise UserError(problem) from cause


def from_rank_0(make: Callable[[], T], what: str) -> T:
    """Call `make` on rank 0 and return its result on every rank (collective).

    Use it for files that other ranks may see late or differently.

    Args:
        make: called on rank 0 only. It must not communicate, and its result must be picklable.
        what: start of the message for errors, as in `on_every_rank`.
    """
    made: list[T | None] = [None]
    with on_every_rank(what):
        if is_first():
            made[0] = make()
    if is_group():
        dist.broadcast_object_list(made, src=0)
    return cast("T", made[0])
