"""What the report says of runs whose outcome is set by hand."""

from __future__ import annotations

import re

import pytest
from copies import Copies

from analysis.read.runs import Run, read_runs
from analysis.report.findings import comparisons, sentences, verdicts

pytestmark = pytest.mark.slow

RATE = "instances_per_batch: 5/2"
WIDER = ("d_model: 8", "d_model: 16")


def made(copies: Copies, *runs: tuple[str, list[tuple[str, str]], tuple[int, int]]) -> list[Run]:
    """Runs, each of a name, changes and how many LABELs of how many were right."""
    return read_runs([copies.make(name, *changes, accuracy={"less": score}) for name, changes, score in runs])


def verdict_of(runs: list[Run]) -> dict[str, str]:
    return {row["run"]: row["verdict"] for row in verdicts(runs).rows if row["task"] == "less"}


def compared(runs: list[Run]) -> list[tuple[str, str, str, str]]:
    found = [pair for pair in comparisons(runs) if pair.task == "less"]
    return [(pair.differ_in, *(run.name for run in pair.runs), pair.result) for pair in found]


def wide(name: str = "wide") -> tuple[str, str]:
    return ("model_name: tiny-8", f"model_name: {name}")


def test_what_a_wide_model_learns_and_a_narrow_one_does_not(copies: Copies) -> None:
    runs = made(copies, ("a", [], (505, 1000)), ("b", [WIDER, wide()], (950, 1000)))
    assert verdict_of(runs) == {"a": "not above majority", "b": "learned"}
    assert "less: learned in 1 of 2 runs. The highest accuracy is 0.950 (0.935 to 0.962), of b." in sentences(runs)
    assert compared(runs) == []  # as expected


def test_a_narrow_model_that_does_better_is_said_to(copies: Copies) -> None:
    runs = made(copies, ("a", [], (950, 1000)), ("b", [WIDER, wide()], (800, 1000)))
    assert verdict_of(runs) == {"a": "learned", "b": "not learned"}
    assert compared(runs) == [("model size", "b", "a", "against expectation")]
    [found] = [sentence for sentence in sentences(runs) if "against expectation" in sentence]
    assert "a is more accurate than b" in found


@pytest.mark.parametrize("other", ["learning_rate: 0.001", "plan_seed: 7"])
def test_runs_that_differ_in_more_are_not_compared(copies: Copies, other: str) -> None:
    """Another learning rate or seed may be what makes the difference."""
    key, _, value = other.partition(": ")
    [before] = re.findall(rf"^ *{key}: .*$", (copies.trained / "experiment.yaml").read_text(), re.MULTILINE)
    change = (before, before.partition(":")[0] + f": {value}")
    assert before != change[1]
    assert compared(made(copies, ("a", [], (950, 1000)), ("b", [WIDER, wide(), change], (800, 1000)))) == []


def test_frequencies(copies: Copies) -> None:
    rare = (RATE, "instances_per_batch: 1/10")
    runs = made(copies, ("a", [], (950, 1000)), ("b", [rare], (600, 1000)))
    assert "tiny-8 learned the task less at 5/2 instances per batch and not at 1/10." in sentences(runs)
    assert compared(runs) == []


def test_a_lower_frequency_that_does_better_is_said_to(copies: Copies) -> None:
    rare = (RATE, "instances_per_batch: 1/10")
    runs = made(copies, ("a", [], (600, 1000)), ("b", [rare], (950, 1000)))
    assert compared(runs) == [("frequency", "a", "b", "against expectation")]


def test_a_report_has_at_most_five_findings_and_doubts_come_first(copies: Copies) -> None:
    runs = made(copies, *((f"r{n}", [(RATE, f"instances_per_batch: {n}")], (950 - 50 * n, 1000)) for n in range(1, 6)))
    (copies.folder / "r1" / "metrics.jsonl").unlink()
    runs = read_runs([run.folder for run in runs])
    assert len(sentences(runs)) == 5
    assert sentences(runs)[0].startswith("Not trained to the end: r1 (0 of 12 steps)")


@pytest.mark.parametrize(
    ("correct", "result"),
    [
        (600, "as expected"),
        (900, "the 95% intervals overlap"),
        (990, "against expectation"),
    ],
)
def test_bursts(copies: Copies, correct: int, result: str) -> None:
    text = (copies.trained / "experiment.yaml").read_text()
    entry = text[text.index("- task: less") :].split("- task: plus")[0]
    burst = entry.replace("uniform", "burst").replace(RATE, "instances_per_batch: null")
    burst = burst.replace("instances: null", "instances: 10").replace(
        "instances_per_batch: 10", "instances_per_batch: null"
    )
    burst = burst.replace("every: null", "every: 4")
    run = copies.make("bursts", (entry, burst), accuracy={"less": (correct, 1000)})
    plan = (run / "plan.json").read_text()
    # The gap is read from the plan that the run was written with.
    (run / "plan.json").write_text(plan.replace('"mean": 1.0', '"mean": 4.0', 1))
    even = copies.make("even", accuracy={"less": (900, 1000)})
    assert compared(read_runs([run, even])) == [("gap", "even", "bursts", result)]
