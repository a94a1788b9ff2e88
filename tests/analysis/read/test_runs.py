"""Reading runs, and the criterion of having learned: against closed forms and by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from copies import Copies

from analysis.figures.measures import TEST_ACCURACY
from analysis.read.runs import Accuracy, read_run, read_runs
from analysis.report.findings import verdict
from analysis.report.sections import table
from analysis.stats import wilson
from olmo_inject.errors import UserError
from olmo_inject.tasks.halves import chosen_ids


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # z = 1.959964: at a half the interval is 1/2 -+ z / (2 sqrt(n + z^2)).
        (50, 100, 0.5 - 1.959964 / (2 * (100 + 1.959964**2) ** 0.5), 0.5 + 1.959964 / (2 * (100 + 1.959964**2) ** 0.5)),
        # At none and at all of them it is z^2 / (n + z^2) wide.
        (0, 20, 0.0, 1.959964**2 / (20 + 1.959964**2)),
        (20, 20, 20 / (20 + 1.959964**2), 1.0),
        # Newcombe 1998, table I: 81 of 263, and 15 of 148.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_interval(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct / n, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_contains_what_its_score_test_does_not_reject() -> None:
    for correct, n in ((3, 7), (940, 1000), (1, 2048)):
        share, z = correct / n, 1.959964
        for end in wilson(correct / n, n):
            assert abs(share - end) / (end * (1 - end) / n) ** 0.5 == pytest.approx(z, rel=1e-5)


def test_a_run_is_read_as_it_was_written(trained: Path) -> None:
    run = read_run(trained)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert len(run.metrics) == len(lines)
    losses = run.series("train/loss")
    assert losses.index.tolist() == list(range(12))
    assert losses.tolist() == [line["value"] for line in lines if line["name"] == "train/loss"]
    assert run.series("no/such").empty
    assert (run.steps_done, run.finished, run.size, run.parameters) == (12, True, "tiny-8", 3072)
    assert run.lm_loss == pytest.approx(run.series("train/lm_loss").mean())
    for measure, n in (("accuracy", 18), ("accuracy_unmirrored", int(run.tasks[0].unmirrored.sum()))):
        last = [line for line in lines if line["name"] == f"eval/less/test/{measure}"][-1]
        accuracy = run.accuracy("less", measure)
        assert accuracy is not None
        assert (accuracy.value, accuracy.n, last["step"]) == (last["value"], n, 12)
        assert last["count"] == n
    assert run.accuracy("less") == run.accuracy("less", "accuracy_unmirrored")
    assert run.gap("plus") == 3
    assert not run.evenly_injected("plus")


def test_a_named_model_made_larger_is_another_size(copies: Copies) -> None:
    assert read_run(copies.make("deep", ("n_layers: 2\n", "n_layers: 3\n"))).size == "tiny-8, 8 wide, 3 deep"
    assert read_run(copies.make("long", ("max_sequence_length: 16\n", "max_sequence_length: 32\n"))).size == "tiny-8"
    assert read_run(copies.make("gone", ("model_name: tiny-8", "model_name: mine.yaml"))).size == "mine.yaml"


def _with_accuracy(run: Path, name: str, correct: int, n: int) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        line = {"step": 12, "name": f"eval/{name}/test/accuracy_unmirrored", "value": correct / n, "count": n}
        file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize(
    ("name", "correct", "n", "learned"),
    [
        ("less", 90, 100, False),  # 0.826 to 0.945
        ("less", 900, 1000, True),  # 0.880 to 0.917
        ("less", 1, 1, False),
        ("plus", 60, 100, True),  # 0.502 to 0.691
        ("plus", 59, 100, False),  # 0.492 to 0.681
    ],
)
def test_learned_asks_the_lower_end(run: Path, name: str, correct: int, n: int, learned: bool) -> None:
    _with_accuracy(run, name, correct, n)
    assert read_run(run).learned(name) is learned


def test_unknown_kinds_and_missing_measurements_have_no_verdict(run: Path) -> None:
    read = read_run(run)
    assert read.learned("absent") is None
    object.__setattr__(read.tasks[0].config, "kind", "mine.py:Kind")
    assert read.learned("less") is None
    (run / "metrics.jsonl").unlink()
    empty = read_run(run)
    assert empty.learned("plus") is None
    assert (empty.steps_done, empty.finished, empty.lm_loss) == (0, False, None)


def test_a_run_cut_off_within_a_line(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    cut = text.index('{"step": 7, "name": "train/lm_loss"') + 20
    (run / "metrics.jsonl").write_text(text[:cut])
    read = read_run(run)
    assert (read.steps_done, read.finished) == (8, False)
    assert read.accuracy("less") is not None


def test_runs_are_ordered_and_refused_by_name(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    text = (other / "experiment.yaml").read_text()
    (other / "experiment.yaml").write_text(
        text.replace("d_model: 8", "d_model: 4").replace("name: run", "name: narrow")
    )
    assert [read.name for read in read_runs([run, other])] == ["narrow", "run"]
    for folders, message in (([], "no runs"), ([run, run], "given twice"), ([tmp_path], "is not a run folder")):
        with pytest.raises(UserError, match=message):
            read_runs(folders)


def test_accuracy_for_people() -> None:
    assert str(Accuracy.of(0.5, 100)) == "0.500 (0.404 to 0.596)"


def test_commutativity_alone_is_not_learned(run: Path) -> None:
    """As in the experiment circles: 83 of 106 test pairs have their mirror in the train half."""
    share = 83 / 106
    assert Accuracy.of(share, 106).low > 0.5
    lines = [("accuracy", share, 106), ("accuracy_unmirrored", 0.0, 23)]
    with (run / "metrics.jsonl").open("a") as file:
        for measure, value, n in lines:
            line = {"step": 13, "name": f"eval/plus/test/{measure}", "value": value, "count": n}
            file.write(json.dumps(line) + "\n")
    read = read_run(run)
    assert read.learned("plus") is False
    assert read.accuracy("plus") == Accuracy.of(0.0, 23)
    assert TEST_ACCURACY.series(read, "plus").iloc[-1] == 0
    [row] = [row for row in table([read]).tables[0].rows if row["task"] == "plus"]
    assert row["accuracy on all test pairs (95% CI)"] == str(Accuracy.of(share, 106))


def test_older_counts_of_unmirrored_pairs_are_mended(run: Path) -> None:
    """Logs of before gave them the count of all test pairs, or of as many as were evaluated."""
    task = read_run(run).tasks[0]
    some = chosen_ids(task, "test", 12)
    with (run / "metrics.jsonl").open("a") as file:
        for step, n in ((13, 12), (14, len(task.test_ids))):
            for measure in ("accuracy", "accuracy_unmirrored"):
                line = {"step": step, "name": f"eval/less/test/{measure}", "value": 0.5, "count": n}
                file.write(json.dumps(line) + "\n")
    found = read_run(run).accuracies("less")
    assert found[13].n == sum(task.unmirrored[task.test_ids.tolist().index(i)] for i in some)
    assert found[14].n == found[12].n == task.unmirrored.sum()
    assert 0 < found[13].n < found[14].n < len(task.test_ids)


def test_a_task_whose_test_pairs_all_have_mirrors_has_no_verdict(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in text if "unmirrored" not in line))
    read = read_run(run)
    assert read.accuracy("less", "accuracy_unmirrored") is None
    assert read.accuracy("less") == read.accuracy("less", "accuracy")
    assert read.learned("less") is None
    assert verdict(read, "less") == "mirrors only"
