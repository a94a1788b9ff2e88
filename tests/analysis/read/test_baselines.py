"""Baselines against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.read.baselines import baselines
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.vocabulary import Vocabulary


def task(kind: str, n_values: int) -> Task:
    config = TaskConfig("task", kind, options={"n_values": n_values})
    return Task.build(config, Vocabulary.without_tokenizer(300, 0, 1))


def test_baselines_of_the_paper_s_tasks() -> None:
    majority, one = baselines(task("comparison", 100))
    assert majority.accuracy == pytest.approx(0.505)
    assert one.accuracy == pytest.approx(0.75)
    assert majority.loss == pytest.approx(-0.505 * np.log(0.505) - 0.495 * np.log(0.495))
    # Given TOK1 = a, less has probability (99 - a) / 100.
    p = (99 - np.arange(99)) / 100
    assert one.loss == pytest.approx(float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).sum() / 100))
    for baseline in baselines(task("modular_addition", 100)):  # neither tells anything of a sum
        assert (baseline.accuracy, baseline.loss) == pytest.approx((0.01, np.log(100)))
