"""Runs that differ in their text, or in when they inject, are not drawn or counted as one condition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.figures.features import amount_by_frequency
from analysis.figures.gaps import gaps
from analysis.figures.heatmaps import accuracy_cells, heatmap, loss_heatmap
from analysis.methods.feature_amounts import trends, with_schedules
from analysis.methods.features import ORDER
from analysis.methods.learning_order import learning_order, order_table
from analysis.read.conditions import conditions, text_labels
from analysis.read.runs import Run, read_run
from analysis.report.findings import comparisons, sentences
from olmo_inject.config import PhaseConfig
from olmo_inject.runs.same_run import CONTENTS

FEW, ALL = 8, None


def made(
    trained: Path, name: str, accuracy: float = 0.5, *, sequences: int | None = ALL, rate: str = "5/2", **entry: Any
) -> Run:
    """A run of `less` whose entry of `injections` has other values."""
    run = replace(read_run(trained), name=name, folder=Path(name))
    run.experiment.corpus.sequences = sequences
    for key, value in {"instances_per_batch": rate, **entry}.items():
        setattr(run.experiment.injections[0], key, value)
    plan = run.plan["injections"]["less"] | {"instances_per_batch": rate}
    if "every" in entry:
        plan |= {"steps_between_observations": {"mean": float(entry["every"])}}
    run.plan["injections"]["less"] = plan
    values = {"accuracy": accuracy, "accuracy_unmirrored": accuracy}
    lines = [
        {"step": step, "name": f"eval/less/test/{measure}", "value": value, "count": 1000}
        for step in (6, 12)
        for measure, value in values.items()
    ]
    lines += [{"step": 12, "name": "eval/less/train/loss", "value": 1.0, "count": 18}]
    return replace(run, metrics=pd.DataFrame(lines))


@pytest.fixture
def two_texts(trained: Path) -> list[Run]:
    """Three frequencies beside each of two texts, learned beside the shorter one alone."""
    return [
        made(trained, f"{rate}, {sequences}", 0.95 if sequences else 0.5, sequences=sequences, rate=rate)
        for sequences in (ALL, FEW)
        for rate in ("1/2", "5/2", "5")
    ]


def test_each_text_has_a_heatmap_of_its_own(two_texts: list[Run]) -> None:
    whole, few = accuracy_cells(two_texts, "less")
    assert [set(cells.runs) for cells in (whole, few)] == [{(0, 0), (0, 1), (0, 2)}] * 2
    assert all(len(inside) == 1 for cells in (whole, few) for inside in cells.runs.values())
    for figure in (heatmap(two_texts, "less"), loss_heatmap(two_texts, "less")):
        assert figure is not None
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert [title.partition("\n")[2] for title in titles] == [
            "beside its own text",
            "beside 8 sequences of its own text",
        ]
    [alone] = accuracy_cells(two_texts[:3], "less")
    assert alone.beside == ""


def test_gaps_are_of_one_text(trained: Path, two_texts: list[Run]) -> None:
    burst = made(trained, "burst", sequences=FEW, schedule="burst", every=4, instances=10)
    assert gaps([two_texts[1], burst], "less") is None  # they differ in the text too
    figure = gaps([*two_texts, burst, made(trained, "b", schedule="burst", every=6, instances=15)], "less")
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == [
        "less\nbeside its own text",
        "less\nbeside 8 sequences of its own text",
    ]
    assert [list(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() == "o"] == [
        [1, 6],
        [1, 4],
    ]


def test_the_order_of_learning_is_of_one_text(two_texts: list[Run]) -> None:
    table = order_table(learning_order(two_texts))
    assert table[["text", "tasks", "learned"]].to_numpy().tolist() == [
        ["beside its own text", 3, 0],
        ["beside 8 sequences of its own text", 3, 3],
    ]
    assert "text" not in learning_order(two_texts[:3])


def test_amounts_of_features_are_of_one_text(two_texts: list[Run]) -> None:
    rates = [0.5, 2.5, 5.0, 10.0]
    found = pd.DataFrame(
        [
            {"folder": str(run.folder), "run": run.name, "model": run.size, "step": 9, "task": "less"}
            | {"amount": 0.1, "low": 0.0, "high": 0.9, "shuffled": 0.1}
            for run in two_texts
        ]
    )
    planned = with_schedules(found, two_texts)
    assert planned["text"].nunique() == 2
    figure = amount_by_frequency(planned, ORDER)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == planned["text"].drop_duplicates().tolist()
    # Beside one text the amount rises with frequency, beside the other it falls.
    rising = pd.DataFrame({"model": "m", "parameters": 1, "evenly": True, "per_batch": rates, "amount": rates})
    both = pd.concat([rising.assign(text="beside a"), rising.assign(text="beside b", amount=[-x for x in rates])])
    both = both.assign(folder=[f"{number}" for number in range(8)], step=9, schedule=both["per_batch"].astype(str))
    against = trends(both).set_index("at")["correlation"]
    assert against.to_dict() == {"m beside a": pytest.approx(1), "m beside b": pytest.approx(-1)}


PHASES = [PhaseConfig(0, 6, "5"), PhaseConfig(6, None, "0")]


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ({"stop": 6, "rate": "5"}, "5 per batch, steps 0 to 6"),
        ({"start": 6, "rate": "5"}, "5 per batch, steps 6 to end"),
        ({"schedule": "phases", "phases": PHASES}, "5/2 per batch, in phases: 5, steps 0 to 6; 0, steps 6 to end"),
        ({"schedule": "at", "file": "lists/early.jsonl"}, "5/2 per batch, listed in early.jsonl"),
    ],
)
def test_what_is_injected_in_a_part_of_the_run_is_not_even(trained: Path, entry: dict[str, Any], label: str) -> None:
    even, part = made(trained, "even"), made(trained, "part", **entry)
    assert even.evenly_injected("less")
    assert not part.evenly_injected("less")
    assert not part.injected_throughout("less")
    [cells] = accuracy_cells([even, part], "less")
    assert [run.name for inside in cells.runs.values() for run in inside] == ["even"]
    assert cells.uneven
    assert conditions([even, part], "less")[part] == label


def test_a_comparison_of_gaps_is_not_of_schedules(trained: Path) -> None:
    """Runs whose injections end early or begin late have another gap, but that is not all in which they differ."""
    burst = {"schedule": "burst", "instances": 10, "every": 4}
    early, whole = made(trained, "early", 0.6, **burst, stop=6), made(trained, "whole", 0.95, **burst)
    even = made(trained, "even", 0.95)
    assert {(pair.differ_in, *(run.name for run in pair.runs)) for pair in comparisons([even, early, whole])} == {
        ("gap", "even", "whole")
    }
    assert whole.in_bursts("less")
    assert not even.in_bursts("less")


def test_where_learning_begins_counts_all_runs_of_a_frequency(trained: Path, two_texts: list[Run]) -> None:
    def found(*scores: tuple[str, float]) -> list[str]:
        runs = [made(trained, f"run {number}", score, rate=rate) for number, (rate, score) in enumerate(scores)]
        return [sentence for sentence in sentences(runs) if "instances per batch" in sentence]

    assert found(("1/2", 0.5), ("5", 0.95), ("5", 0.5), ("5", 0.95)) == [
        "tiny-8 learned the task less at 5 instances per batch (in 2 of 3 runs) and not at 1/2."
    ]
    assert found(("1/2", 0.95), ("1/2", 0.5), ("5", 0.95)) == []  # it learned at both
    assert found(("1/2", 0.5), ("1/2", 0.5), ("5", 0.95)) == [
        "tiny-8 learned the task less at 5 instances per batch and not at 1/2 (in none of 2 runs)."
    ]
    assert not [sentence for sentence in sentences(two_texts) if "learned the task" in sentence]


def test_runs_of_other_settings_are_not_drawn_as_seeds(trained: Path) -> None:
    runs = [made(trained, name) for name in ("a", "b", "c", "d")]
    runs[1].experiment.train.seed = 7  # pyright: ignore[reportAttributeAccessIssue]
    assert set(conditions(runs, "less").values()) == {"5/2 per batch"}
    runs = [replace(run) for run in runs]  # what was read of them is not kept
    runs[2].experiment.train.optimizer.betas = (0.9, 0.999)  # pyright: ignore[reportAttributeAccessIssue]
    runs[3].experiment.train.max_duration = 24  # pyright: ignore[reportAttributeAccessIssue]
    assert [label.partition(" beside its own text, ")[2] for label in conditions(runs, "less").values()] == [
        "betas.1 0.95, steps 12",
        "betas.1 0.95, steps 12",
        "betas.1 0.999, steps 12",
        "betas.1 0.95, steps 24",
    ]
    assert [len(cells.runs[0, 0]) for cells in accuracy_cells(runs, "less")] == [2, 1, 1]
    for run, rate in zip(runs, ("1/2", "1", "5/2", "5"), strict=True):  # settings that go with the frequency
        run.plan["injections"]["less"]["instances_per_batch"] = rate
    assert len(accuracy_cells(runs, "less")) == 1


def test_where_and_how_instances_are_drawn_is_a_setting(trained: Path) -> None:
    runs = [made(trained, "a"), made(trained, "b", place="end", draw="epochs"), made(trained, "c", eos="none")]
    assert [label.partition(" beside its own text, ")[2] for label in conditions(runs, "less").values()] == [
        "less draw independent, less place start, less eos after",
        "less draw epochs, less place end, less eos after",
        "less draw independent, less place start, less eos none",
    ]
    one, other = (made(trained, name, schedule="at", file=f"{name}/list.jsonl") for name in ("a", "b"))
    for run, fingerprint in ((one, "1234567"), (other, "7654321")):
        run.plan["fingerprints"]["list of injections 0"] = fingerprint
    assert [label.rpartition(", ")[2] for label in conditions([one, other], "less").values()] == [
        "less list 123456",
        "less list 765432",
    ]


def test_a_text_has_one_name_wherever_it_is(trained: Path) -> None:
    def reading(contents: str | None, *, folder: str | None = None, paths: tuple[str, ...] = ()) -> Run:
        run = made(trained, f"{contents}, {folder}, {paths}")
        run.experiment.corpus.folder, run.experiment.corpus.paths = folder, list(paths)
        run.plan["fingerprints"].pop(CONTENTS, None)
        run.plan["fingerprints"] |= {} if contents is None else {CONTENTS: contents}
        return run

    def names(*runs: Run) -> list[str]:
        return list(text_labels(runs).values())

    assert names(reading("x", folder="/a/english"), reading("x", folder="/stage")) == ["english"] * 2
    assert names(reading("x", folder="/a/english"), reading("y", folder="/b/english")) == ["a/english", "b/english"]
    rebuilt = [reading(contents, folder="/a/english") for contents in ("1234567", "7654321")]
    assert names(*rebuilt) == ["english (contents 123456)", "english (contents 765432)"]
    assert names(reading(None, paths=("/a/x.npy",)), reading(None, paths=("/b/x.npy",))) == [
        "its own text (a/x.npy)",
        "its own text (b/x.npy)",
    ]


def test_a_comparison_of_frequencies_is_not_of_places(trained: Path) -> None:
    often, seldom = made(trained, "often", 0.2, rate="5"), made(trained, "seldom", 0.95, rate="5/2")
    assert [pair.differ_in for pair in comparisons([often, seldom])] == ["frequency"]
    assert not comparisons([often, made(trained, "seldom", 0.95, rate="5/2", place="end")])
