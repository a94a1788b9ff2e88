"""The report of a scan for texts: how often the corpus holds each, beside how often the plan injects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from rich.table import Table

from olmo_inject.scan.hits import Place
from olmo_inject.scan.text_hits import TextHits
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.tasks import Task

FindPlaces = Callable[[Sequence[tuple[str, Place]]], list[dict[str, Any]]]


def texts_record(
    task: Task, injected: Int64[np.ndarray, " n"], index: TextIndex, hits: TextHits, places: FindPlaces
) -> dict[str, Any]:
    """Counts of each of a task's texts, and the first places of each.

    Args:
        task: whose instances were searched for.
        injected: how often the plan injects each instance; empty: it injects none.
        index: of the texts of all tasks.
        hits: of these.
        places: describes places.
    """
    numbers = index.numbers[task.name]
    train = np.isin(np.arange(len(numbers)), task.train_ids)
    first = {text: instance for instance, text in reversed(list(enumerate(numbers.tolist())))}
    of_first = [place for place in hits.places if place.text in first]
    described = places([("exact" if place.exact else "near", place.place) for place in of_first])
    texts = [
        {
            "instance": task.instance_id(instance),
            **({"group": task.groups[instance]} if task.groups else {}),
            "half": "train" if train[instance] else "test",
            "tokens": int(index.texts.lengths[text]),
            "injected": int(injected[instance]) if len(injected) else 0,
            "exact": int(hits.exact[text]),
            "near": int(hits.near[text]),
            "nearest": float(hits.nearest[text]),
        }
        for instance, text in enumerate(numbers.tolist())
    ]
    distinct = np.unique(numbers)
    return {
        "seed": task.config.seed,
        "instances": int(hits.exact[distinct].sum()),
        "near": int(hits.near[distinct].sum()),
        "texts": texts,
        "places": [
            {"instance": task.instance_id(first[place.text]), "share": place.share} | more
            for place, more in zip(of_first, described, strict=True)
        ],
    }


def texts_table(tasks: dict[str, dict[str, Any]], shown: int) -> Table:
    """The natural count of texts beside their injected one: all of a task, then those that the corpus holds most often.

    Args:
        tasks: the records of tasks, by name.
        shown: maximum number of texts of each task.
    """
    table = Table()
    for column in ("task", "text", "injected", "in the corpus", "near", "nearest"):
        table.add_column(column, justify="left" if column in ("task", "text") else "right")
    for name, task in tasks.items():
        texts = task["texts"]
        best = max(text["nearest"] for text in texts)
        table.add_row(name, f"all {len(texts):,}", f"{sum(t['injected'] for t in texts):,}", *_counts(task, best))
        often = sorted(texts, key=lambda text: (-text["exact"], -text["near"]))
        for text in often[:shown]:
            if text["exact"] or text["near"]:
                counts = _counts({"instances": text["exact"], "near": text["near"]}, text["nearest"])
                table.add_row("", text["instance"], f"{text['injected']:,}", *counts)
    return table


def _counts(counts: dict[str, Any], nearest: float) -> tuple[str, str, str]:
    return f"{counts['instances']:,}", f"{counts['near']:,}", f"{nearest:.0%}" if counts["near"] else ""
