"""Other seeds for tasks whose instances the corpus holds by itself, until none of them does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from olmo_inject.errors import UserError
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.vocabulary import Vocabulary

AT_ONCE = 64  # draws that one pass over the corpus decides
Count = Callable[[Sequence[Task]], list[int]]


def clean_seeds(
    configs: Sequence[TaskConfig], vocabulary: Vocabulary, found: Sequence[int], count: Count, most: int
) -> list[TaskConfig]:
    """`configs` with new seeds for the tasks that were found, so that none is found any more.

    All tasks of a draw are judged together: a task keeps clear of the tokens of those before it, so another seed
    there can move its own tokens. Seeds count up from those given.

    Args:
        configs: of all tasks, in order.
        vocabulary: the corpus's.
        found: natural instances of each task as given.
        count: natural instances of each of the tasks it is handed, in one pass over the corpus.
        most: draws to try.

    Raises:
        UserError: no draw was clean; the message says how few instances the best had.
    """
    if not any(found):
        return list(configs)
    best, tried = sum(found), 0
    while tried < most:
        draws = [
            [replace(c, seed=c.seed + offset) if hits else c for c, hits in zip(configs, found, strict=True)]
            for offset in range(tried + 1, min(tried + AT_ONCE, most) + 1)
        ]
        tried += len(draws)
        tasks = [build_tasks(draw, vocabulary) for draw in draws]
        counts = count([task for drawn in tasks for task in drawn])
        for number, draw in enumerate(draws):
            hits = sum(counts[number * len(configs) : (number + 1) * len(configs)])
            if hits == 0:
                return draw
            best = min(best, hits)
    raise UserError(
        f"--resample: none of {most} draws is clean; the best leaves {best:,} natural instances: "
        "try more draws, fewer values, or a larger vocabulary"
    )
