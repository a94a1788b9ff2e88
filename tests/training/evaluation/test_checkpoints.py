"""Evaluating an old checkpoint again gives what the run itself measured, and works on tasks it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from ranks import Ranks
from runs import series, train_on_rank, write_experiment

from olmo_inject.cli import main
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task
from olmo_inject.training.evaluation import checkpoints

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
UNMIRRORED = ("accuracy", "accuracy_among_labels", "loss_among_labels", "auc")
NAMES = ("loss", *UNMIRRORED, "label_mass", *(f"{name}_unmirrored" for name in UNMIRRORED))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def run(path: Path, ranks: Ranks) -> Path:
    folder = path.parent / "fsdp"
    ranks.run(2, train_on_rank, path, f"folder={folder}", "train.distributed_strategy=fsdp")
    return folder


def test_own_tasks_as_the_run_measured_them(run: Path) -> None:
    steps = checkpoints.find_checkpoint_paths([run])
    assert [step.name for step in steps] == ["step4", "step8", "step12"]
    for step in steps:
        tasks = checkpoints.find_tasks((), step)
        assert [task.name for task in tasks] == ["less", "plus"]
        results = list(checkpoints.evaluate_checkpoint(step, tasks, CPU, batch_size=5))
        assert len(results) == 4
        for result in results:
            assert result.trained
            prefix = f"eval/{result.task}/{result.half}"
            assert result.step is not None
            for name in NAMES:
                measured = series(run, f"{prefix}/{name}").get(result.step)
                value = getattr(result, name)
                assert (value is None) == (measured is None)
                if value is not None:
                    assert value == pytest.approx(measured, rel=1e-5)
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            counts = {line["name"]: line["count"] for line in lines if line["name"].startswith(f"{prefix}/")}
            assert counts[f"{prefix}/accuracy"] == result.count
            assert (result.auc is None) == (result.task == "plus")  # it has more than two labels
            assert counts.get(f"{prefix}/accuracy_unmirrored", 0) == result.count_unmirrored


def test_tasks_it_was_not_trained_with(run: Path, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    text = path.read_text().replace("name: plus", "name: minus").replace("task: plus", "task: minus")
    other.write_text(text)
    step = run / "step12"
    tasks = checkpoints.find_tasks(["less", str(other), str(run / "tasks" / "plus.json")], step)
    assert [task.name for task in tasks] == ["less", "less", "minus", "plus"]
    results = list(checkpoints.evaluate_checkpoint(step, tasks, CPU, most=4))
    assert [result.trained for result in results] == [True] * 4 + [False] * 2 + [True] * 2
    assert {result.count for result in results} == {4}


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parquet = tmp_path / "results.parquet"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run / "step4"), str(run / "step8"), "--json", "--parquet", str(parquet)])
    assert ended.value.code == 0
    results = json.loads(capsys.readouterr().out)
    assert [(r["step"], r["task"], r["half"]) for r in results[:3]] == [
        (4, "less", "train"),
        (4, "less", "test"),
        (4, "plus", "train"),
    ]
    frame = pd.read_parquet(parquet)
    assert frame["loss"].tolist() == [r["loss"] for r in results]
    with pytest.raises(SystemExit):
        main(["evaluate", str(run / "step4")])
    lines = capsys.readouterr().out.splitlines()  # no terminal: a row is a line
    assert lines[0].split()[0] == "checkpoint"
    assert [line.split()[:3] for line in lines[2:]] == [
        ["fsdp/step4", task, half] for task in ("less", "plus") for half in ("train", "test")
    ]


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint nor a run"):
        checkpoints.find_checkpoint_paths([tmp_path])
    with pytest.raises(
        UserError, match=r"'more' is neither a task of .* \(less, plus\) nor a file: a run's tasks/NAME.json, or an exp"
    ):
        checkpoints.find_tasks(["more"], run / "step4")
    # A file that is not there is not the shipped experiment of that name.
    with pytest.raises(UserError, match=r"'demo\.yaml' is neither a task of"):
        checkpoints.find_tasks(["demo.yaml"], run / "step4")
    with pytest.raises(UserError, match="none does not exist"):
        checkpoints.find_checkpoint_paths([tmp_path / "none"])
    with pytest.raises(UserError, match="does not lie in a run"):
        checkpoints.find_tasks([], tmp_path / "step4")
    task = Task.load(run / "tasks" / "less.json")
    task.instances.values[0] = 500
    with pytest.raises(UserError, match="vocabulary of 128 lacks token 500 of task less"):
        list(checkpoints.evaluate_checkpoint(run / "step4", [task], CPU))
