"""Find task seeds for which the corpus holds no natural instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from olmo_inject.errors import UserError
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.tasks.material import Rows
from olmo_inject.vocabulary import Vocabulary

AT_ONCE = 64  # draws that one pass over the corpus tests
Count = Callable[[Sequence[Task]], list[int]]


def clean_seeds(
    configs: Sequence[TaskConfig],
    vocabulary: Vocabulary,
    instances: Sequence[int],
    count: Count,
    most: int,
    rows: Callable[[], Rows] | None = None,
) -> list[TaskConfig]:
    """Draw new seeds for the tasks with natural instances until no task has any.

    All tasks of a draw are searched together: a task avoids the tokens of the tasks before it, so another seed of one
    can change the tokens of the next. Seeds count up from those given.

    Args:
        configs: of all tasks, in order.
        vocabulary: of the corpus.
        instances: natural instances of each task with its own seed.
        count: gives the natural instances of each of many tasks, in one pass over the corpus.
        most: draws to try.
        rows: opens the rows of the corpus, for tasks that are made of them.

    Raises:
        UserError: no draw was clean; the message gives the instances of the best draw.
    """
    if not any(instances):
        return list(configs)
    best, tried = sum(instances), 0
    while tried < most:
        draws = [
            [replace(c, seed=c.seed + offset) if natural else c for c, natural in zip(configs, instances, strict=True)]
            for offset in range(tried + 1, min(tried + AT_ONCE, most) + 1)
        ]
        tried += len(draws)
        tasks = [build_tasks(draw, vocabulary, rows) for draw in draws]
        counts = count([task for drawn in tasks for task in drawn])
        for number, draw in enumerate(draws):
            natural = sum(counts[number * len(configs) : (number + 1) * len(configs)])
            if natural == 0:
                return draw
            best = min(best, natural)
    raise UserError(
        f"--resample: none of {most} draws is clean; the best leaves {best:,} natural instances: "
        "try more draws, fewer values, or a larger vocabulary"
    )
