"""What the report says of runs whose outcome is set by hand."""

from __future__ import annotations

import pytest
from copies import Copies

from analysis.read.runs import read_runs
from analysis.report.findings import sentences

RATE = "instances_per_batch: 5/2"
WIDER = ("d_model: 8", "d_model: 16")


def said(copies: Copies, *runs: tuple[str, list[tuple[str, str]], tuple[int, int]]) -> str:
    """The sentences about runs, each a name, changes and how many LABELs of how many were right."""
    made = [copies.make(name, *changes, accuracy={"less": score}) for name, changes, score in runs]
    return "\n".join(sentences(read_runs(made)))


def wide(name: str = "wide") -> tuple[str, str]:
    return ("model_name: tiny-8", f"model_name: {name}")


def test_what_a_wide_model_learns_and_a_narrow_one_does_not(copies: Copies) -> None:
    text = said(copies, ("a", [], (505, 1000)), ("b", [WIDER, wide()], (950, 1000)))
    assert "less at 5/2 a batch: learned by wide 0.950 (0.935 to 0.962); not learned by tiny-8 0.505" in text
    assert "(no better than the majority label)" in text
    assert "Not learned means: not in these steps" in text
    assert "Against expectation" not in text


def test_a_narrow_model_that_does_better_is_said_to(copies: Copies) -> None:
    text = said(copies, ("a", [], (950, 1000)), ("b", [WIDER, wide()], (800, 1000)))
    assert "Against expectation: at 5/2 a batch the smaller tiny-8 is more accurate on less" in text


def test_frequencies(copies: Copies) -> None:
    rare = (RATE, "instances_per_batch: 1/10")
    text = said(copies, ("a", [], (950, 1000)), ("b", [rare], (600, 1000)))
    assert "tiny-8 learned less at 5/2 instances a batch and not at 1/10." in text
    assert "Against expectation" not in text


def test_a_lower_frequency_that_does_better_is_said_to(copies: Copies) -> None:
    rare = (RATE, "instances_per_batch: 1/10")
    text = said(copies, ("a", [], (600, 1000)), ("b", [rare], (950, 1000)))
    assert "Against expectation: tiny-8 is more accurate on less at 1/10 instances a batch" in text


@pytest.mark.parametrize(
    ("correct", "how"),
    [
        (600, "was less accurate than"),
        (900, "cannot be told from"),
        (990, "against expectation was more accurate than"),
    ],
)
def test_bursts(copies: Copies, correct: int, how: str) -> None:
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
    text = "\n".join(sentences(read_runs([run, even])))
    assert f"tiny-8 with 10 every 4 batches {how} 5/2 a batch on less" in text
