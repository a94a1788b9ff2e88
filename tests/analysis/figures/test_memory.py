"""Figures of memorization, of made-up answers whose means are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import vocabulary

from analysis.figures import memory
from analysis.read.runs import Run
from analysis.report.memory import memory_section
from analysis.stats import wilson
from olmo_inject.config import Experiment
from olmo_inject.tasks import Task, TaskConfig


def run_of(name: str, metrics: list[dict[str, Any]], *tasks: Task) -> Run:
    return Run(name, Path(name), Experiment(), list(tasks), {}, pd.DataFrame(metrics), None)


def answers() -> pd.DataFrame:
    """Two runs, two checkpoints, instances seen 0, 1 and 4 times; the loss is 5 less times seen, of the larger less."""
    found: list[dict[str, Any]] = []
    for run, less in (("small", 0.0), ("large", 0.5)):
        about = {"run": run, "folder": f"runs/{run}", "model": f"tiny-{run}", "task": "facts", "group": None}
        for step, scale in ((10, 0.5), (20, 1.0)):
            for instance, (seen, last) in enumerate([(0, None), (1, 3), (1, 3), (4, 9), (4, 9)]):
                noise = 0.1 * (-1) ** instance
                value = 5 - less - seen * scale + (noise if seen else 0)
                half = "train" if seen else "test"
                row = {"step": step, "half": half, "instance": str(instance), "seen": seen, "last_seen": last}
                found += [
                    about | row | {"measure": "memorized_loss", "value": value},
                    about | row | {"measure": "memorized_exact", "value": float(seen == 4)},
                ]
    return pd.DataFrame(found).astype({"seen": "Int64", "last_seen": "Int64"})


def test_means_by_times_seen_are_of_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    means = memory.by_sightings(answers(), "facts").set_index(["run", "measure", "seen"])
    for run, less in (("small", 0.0), ("large", 0.5)):
        assert means.loc[(run, "memorized_loss"), "value"].tolist() == pytest.approx([5 - less, 4 - less, 1 - less])
        assert means.loc[(run, "memorized_exact"), "value"].tolist() == [0, 0, 1]
        assert means.loc[(run, "memorized_loss"), "n"].tolist() == [1, 2, 2]
    assert np.isnan(means[["low", "high"]].to_numpy()).all()  # of two probes each
    monkeypatch.setattr(memory, "FEWEST", 2)
    means = memory.by_sightings(answers(), "facts").set_index(["run", "measure", "seen"])
    low, value, high = means.loc[("small", "memorized_loss", 4), ["low", "value", "high"]]
    assert low <= value <= high
    assert low < high
    exact = means.loc[("small", "memorized_exact", 1)]  # none of two
    assert (exact["low"], exact["value"], exact["high"]) == (0, 0, pytest.approx(0.66, abs=0.01))
    figure = memory.repetitions(means.reset_index())
    assert figure is not None
    titles = {axes.get_title() for axes in figure.axes}
    assert titles == {"memorized loss (nats a token)", "memorized exact (share)"}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["large, tiny-large", "small, tiny-small"]
    alone = means.reset_index()
    assert memory.repetitions(alone.loc[alone["seen"] == 4]) is None, "one number of times is no curve"


def test_numbers_of_times_that_are_close_are_not_both_named() -> None:
    means = memory.by_sightings(answers(), "facts")
    many = pd.concat([means.assign(seen=seen) for seen in (0, 1, 2, 6, 7, 25, 26, 45)])
    figure = memory.repetitions(many)
    assert figure is not None
    assert sorted(figure.axes[0].get_xticks()) == [0, 1, 2, 7, 26, 45]


def test_forgetting_counts_from_the_last_sighting() -> None:
    means = memory.forgotten(answers(), "facts", "memorized_loss")
    of = means.loc[means["run"] == "small"].set_index(["seen", "since"])["value"]
    assert {key: round(float(value), 6) for key, value in of.items()} == {
        ("1", 7.0): 4.5,
        ("1", 17.0): 4.0,
        ("4", 1.0): 3.0,
        ("4", 11.0): 1.0,
    }
    assert (means["n"] == 2).all(), "what was not seen yet is not forgotten"
    assert memory.forgetting(means, "memorized_loss") is not None
    assert memory.forgetting(means.loc[means["since"] < 8].drop_duplicates(["run", "seen"]), "memorized_loss") is None


def test_an_instance_that_is_asked_often_is_one_observation() -> None:
    """Thirty instances differ; the eight checkpoints of each hardly do."""
    of_instance = np.random.default_rng(0).normal(size=30)
    about = {"run": "r", "model": "m", "folder": "f", "task": "t", "measure": "loss", "seen": 1, "last_seen": 100}
    rows = [
        about | {"instance": f"i{number}", "step": 164 + 8 * step, "value": value + 0.01 * step}
        for number, value in enumerate(of_instance)
        for step in range(8)
    ]
    [found] = memory.forgotten(pd.DataFrame(rows), "t", "loss").to_dict("records")
    assert found["n"] == 240
    expected = 2 * 1.96 * of_instance.std(ddof=1) / 30**0.5
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.1)
    several = pd.DataFrame(rows).assign(step=200)  # eight probes of each at one step
    [found] = memory.by_sightings(several, "t").to_dict("records")
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.1)
    few = pd.DataFrame(rows[:72])  # nine instances
    assert np.isnan(memory.forgotten(few, "t", "loss")[["low", "high"]].to_numpy()).all()


def test_contamination_has_wilson_intervals() -> None:
    lines = [
        {"step": step, "name": f"eval/quiz/{half}/accuracy", "value": value, "count": n}
        for step in (0, 50)
        for half, value, n in (("train", 0.75, 20), ("test", 0.25, 40))
    ]
    measured = memory.contamination_rows([run_of("one", lines), run_of("two", lines[:1])], "quiz")
    assert set(measured["run"]) == {"one"}, "of a run that measured one half there is nothing to compare"
    last = measured.loc[measured["step"] == 50].set_index("half")
    assert last.loc["injected", ["value", "low", "high"]].tolist() == [0.75, *wilson(0.75, 20)]
    assert last.loc["never injected", ["value", "low", "high"]].tolist() == [0.25, *wilson(0.25, 40)]
    figure = memory.contamination(measured, 0.25)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["injected", "never injected", "guessing"]
    assert memory.contamination(measured.iloc[:0], 0.25) is None


def test_exposure_is_a_share_of_each_half() -> None:
    about = {"run": "one", "folder": "runs/one", "model": "m", "step": 5, "task": "canary", "measure": "exposure"}
    values = {"train": [6.0, 6.5, 6.6], "test": [0.1, 1.0, 2.0, 3.0]}
    table = pd.DataFrame([about | {"half": half, "value": v} for half, of in values.items() for v in of])
    figure = memory.exposure(table, "canary")
    assert figure is not None
    bars: Any = figure.axes[0].patches
    heights = np.array([bar.get_height() for bar in bars])
    assert heights.sum() == pytest.approx(2)
    assert memory.exposure(table, "other") is None


def test_a_section_holds_tables_and_figures(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": [5, 6, 7]}\n')
    options = {"file": str(tmp_path / "texts.jsonl")}
    runs = [run_of("small", [], Task.build(TaskConfig("facts", "texts", options=options), vocabulary()))]
    assert memory_section({}, runs) is None
    section = memory_section({"probes": answers()}, runs)
    assert section is not None
    assert [drawing.name for drawing in section.drawings] == ["repetitions-facts", "forgetting-facts"]
    assert len(section.tables[0].rows) == 2 * 2 * 3
