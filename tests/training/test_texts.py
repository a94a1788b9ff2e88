"""A run of texts, facts, questions and canaries, at every place and schedule: trained, resumed, audited, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pages import sections_of
from ranks import Ranks
from runs import VOCAB, same_bits, series, train_on_rank, write_experiment

from analysis.figures.curves import different_plans, plan_rows
from analysis.methods.scores import unmeasured
from analysis.read.checkpoints import select_checkpoints
from analysis.read.runs import read_run
from analysis.read.samples import samples
from analysis.read.skipped import Skipped
from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.data import build_data, build_plan
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import checkpoint_labels
from olmo_inject.runs.folder import delete_run
from olmo_inject.runs.read import load_run
from olmo_inject.runs.same_run import check_same_run, differences
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.evaluation import checkpoints
from olmo_inject.training.evaluation.probes import ProbeResult, results_table
from olmo_inject.utils.files import read_json

pytestmark = pytest.mark.slow

TASKS = """
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 6}}}}
  - {{name: texts, kind: texts, options: {{file: "{folder}/texts.jsonl", context: 2}}}}
  - {{name: canary, kind: canary, options: {{count: 6, context: 3, secret: 3, alternatives: 5}}}}
  - {{name: own, kind: "{folder}/own.py:Quiz"}}
injections:
  - {{task: less, instances_per_batch: 5/2, eos: both}}
  - {{task: texts, groups: [a], schedule: repetitions, times: 6, place: random, eos: both}}
  - {{task: texts, groups: [b], schedule: repetitions, times: 3, spread: random, longer: split}}
  - {{task: canary, schedule: phases, phases: [{{start: 2, stop: 5, instances_per_batch: 2}}], per_row: 2, place: end}}
  - {{task: own, schedule: at, file: "{folder}/at.jsonl", place: document}}
"""
OWN = """
from dataclasses import dataclass
from olmo_inject.tasks import Material, Probe

@dataclass(frozen=True)
class Quiz:
    n: int = 4

    def material(self, inputs):
        probes = tuple(Probe(i, "choice", "", (40 + i, 50), ((60, 61), (62,)), i % 2) for i in range(self.n))
        return Material([[40 + i, 50, *p.options[p.right]] for i, p in enumerate(probes)], [2, 1] * 2, probes=probes)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    path = write_experiment(folder)
    text = path.read_text()
    begin, end = text.index("tasks:"), text.index("train:")
    path.write_text(text[:begin] + TASKS.format(folder=folder) + text[end:])
    rng = np.random.default_rng(2)
    lengths = {"a": (4, 9, 13), "b": (5, 40)}
    records = [
        {"id": f"{group}{n}", "group": group, "text": rng.integers(20, VOCAB, n).tolist()}
        for group, sizes in lengths.items()
        for n in sizes
    ]
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (folder / "own.py").write_text(OWN)
    listed = [{"step": 1, "row": 3, "instance": 1}, {"step": 1}, {"step": 7, "row": 0}]
    (folder / "at.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in listed))
    return path


@pytest.fixture(scope="module")
def finished(path: Path, ranks: Ranks) -> Path:
    said = ranks.run(1, train_on_rank, path)[0]
    assert "trained to step 12" in said, said
    return path.parent / "run"


def test_the_audit_agrees_and_counts_the_continuations(finished: Path) -> None:
    audit = audit_run(finished, progress=False)
    assert audit.passed, audit.differences
    data = load_run(finished).build_data()
    seen = [data.plan.at(step) for step in range(12)]
    assert audit.labels["less"] == sum(int((each.task == 0).sum()) for each in seen) == 30
    drawn = np.concatenate([each.instance[(each.task == 1) & (each.piece == 0)] for each in seen])
    assert np.bincount(drawn).tolist() == [6, 6, 6, 3, 3], "each exactly as often as asked"
    # Of a text whose first token is a row's first, that one is predicted by nothing.
    assert 0 < audit.labels["texts"] <= 6 * (4 + 9 + 13) + 3 * (5 + 40)
    assert audit.labels["canary"] == 6 * 3
    listed = data.plan.at(1)
    assert (listed.rows[listed.task == 3] == 3).sum() == 1


def test_a_list_is_kept_with_the_run(path: Path, finished: Path) -> None:
    file = path.parent / "at.jsonl"
    file.rename(moved := path.parent / "moved.jsonl")
    try:
        kept = load_run(finished).build_data().plan.at(1)
        assert (kept.rows[kept.task == 3] == 3).sum() == 1
        assert audit_run(finished, progress=False).passed
        elsewhere = load_experiment(path)
        elsewhere.injections[4].file = str(moved)
        assert differences(load_experiment(path), elsewhere) == [], "a list may move"
        check_same_run(elsewhere, build_data(elsewhere))
    finally:
        moved.rename(file)
    before = set(finished.iterdir())
    assert "lists" in {each.name for each in before}
    copy = path.parent / "copy"
    shutil.copytree(finished, copy)
    delete_run(copy)
    assert {each.name for each in copy.iterdir()} <= {"plan.json", ".lock"}


def test_ranks_workers_and_interruptions_change_nothing(path: Path, finished: Path, ranks: Ranks) -> None:
    folder = path.parent / "again"
    into = f"folder={folder}"
    ranks.run(1, train_on_rank, path, into, "train.time_limit=0")
    assert "trained to step 12" in ranks.run(1, train_on_rank, path, into, "train.data.num_workers=1")[0]
    assert same_bits(folder, finished, 12)
    two = path.parent / "two"
    ranks.run(2, train_on_rank, path, f"folder={two}")
    evidence = [(run / "evidence.jsonl").read_text().splitlines() for run in (finished, two)]
    tokens = [[json.loads(line)["tokens"] for line in lines] for lines in evidence]
    assert tokens[0] == tokens[1]
    for name in ("train/texts/loss", "train/own/accuracy", "eval/canary/test/exposure", "eval/own/train/accuracy"):
        one, other = series(finished, name), series(two, name)
        assert one.keys() == other.keys() != set()
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4)


def test_a_checkpoint_answers_as_the_run_measured(finished: Path, tmp_path: Path) -> None:
    step = finished / "step12"
    results = list(checkpoints.evaluate_checkpoint(step, checkpoints.find_tasks((), step), torch.device("cpu"), 7))
    answers = pd.DataFrame([result.record() for result in results if isinstance(result, ProbeResult)])
    for (task, half, measure), of in answers.groupby(["task", "half", "measure"]):
        assert of["value"].mean() == pytest.approx(series(finished, f"eval/{task}/{half}/{measure}")[12], rel=1e-4)
    grouped = answers[(answers["task"] == "texts") & (answers["measure"] == "loss")].groupby("group")["value"].mean()
    for group, value in grouped.items():
        assert value == pytest.approx(series(finished, f"eval/texts/train/loss/{group}")[12], rel=1e-4)
    seen = answers[answers["task"] == "texts"].groupby("instance")["seen"].first()
    assert seen.to_dict() == {"a4": 6, "a9": 6, "a13": 6, "b5": 3, "b40": 3}
    assert (answers[answers["half"] == "test"]["seen"] == 0).all()
    assert set(answers["measure"]) == {"loss", "exact", "exposure", "accuracy", "accuracy_normalized"}
    checkpoints.write_results(results, tmp_path / "all.parquet")
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == len(results)


def test_analyses_and_report_of_texts(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["analyze", "memory", str(finished), "--steps", "last", "--out", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == []
    table = pd.read_parquet(tmp_path / "memory-probes.parquet")
    step = finished / "step12"
    tasks = [task for task in checkpoints.find_tasks((), step) if not task.is_triples]
    answers = [result.record() for result in checkpoints.evaluate_checkpoint(step, tasks, torch.device("cpu"), 7)]
    assert table["value"].tolist() == pytest.approx([answer["value"] for answer in answers], rel=1e-4, abs=1e-5)
    assert table["seen"].tolist() == [answer["seen"] for answer in answers]
    assert {each.name for each in tmp_path.glob("*.svg")} >= {
        "memory-repetitions-texts.svg",
        "memory-exposure-canary.svg",
        "memory-contamination-own.svg",
    }
    # Of its task of pairs the run has the other analyses, and its evaluations are read from its log.
    with pytest.raises(SystemExit, match="^0$"):
        main(["analyze", "patching", str(finished), "--pairs", "8", "--out", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["left_out"] == []
    assert set(pd.read_parquet(tmp_path / "patching-layers.parquet")["task"]) == {"less"}
    assert unmeasured(select_checkpoints([finished], "all", Skipped())) == []
    sections = sections_of([finished])
    assert {"memorization", "contamination"} <= {section.anchor for section in sections}
    assert any("olmo-inject analyze memory RUNS" in section.command for section in sections)


def test_a_line_of_a_list_is_named(path: Path, tmp_path: Path) -> None:
    listed = tmp_path / "at.jsonl"
    listed.write_text('{"step": 1}\n\n{"step": 2}\n{"stepp": 3}\n')
    experiment = load_experiment(path, [f"injections.4.file={listed}"])
    with pytest.raises(UserError, match=r"at\.jsonl, line 4: 'stepp' is not one of step, row, instance"):
        build_plan(experiment)


def test_more_steps_are_refused_that_would_move_repetitions(path: Path, finished: Path, ranks: Ranks) -> None:
    said = ranks.run(1, train_on_rank, path, "train.max_duration=16")[0]
    assert said.startswith(f"UserError: {finished} is a run of another experiment: injections.1.stop 12 -> 16 (the")
    assert "up to step 12: give stop: 12, and no fewer steps); injections.2.stop 12 -> 16 (" in said
    copy = path.parent / "longer"
    shutil.copytree(finished, copy)
    more = (f"folder={copy}", "train.max_duration=14", "injections.1.stop=12", "injections.2.stop=12")
    assert "trained to step 14" in ranks.run(1, train_on_rank, path, *more)[0]
    audit = audit_run(copy, progress=False)
    assert audit.passed, audit.differences


def test_a_branch_counts_what_it_gave_itself(
    path: Path, finished: Path, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch, step = path.parent / "branch", path.parent / "branch" / "step8"
    more = (f"folder={branch}", f"start_from={finished / 'step4'}", "start_state=full", "train.max_duration=8")
    said = ranks.run(1, train_on_rank, path, *more)[0]
    assert said.startswith("UserError: injections: texts: start 0 of its repetitions is before step 4, where the run ")
    assert said.endswith("fewer than times: 6 would be left; give start: 4 or later")
    assert not branch.exists()
    with pytest.raises(UserError, match="give start: 4 or later"):
        check_before_launch(load_experiment(path, more), 1, "cpu", overwrite=False)
    more += tuple(f"injections.{n}.{key}" for n in (1, 2) for key in ("start=4", "times=2"))
    assert "trained to step 8" in ranks.run(1, train_on_rank, path, *more)[0]
    audit = audit_run(branch, progress=False)
    assert audit.passed, audit.differences

    planned = read_json(branch / "plan.json")
    counts = {name: entry["instances"] for name, entry in planned["injections"].items()}
    assert counts == {"less": 10, "texts": 6, "texts/2": 4, "canary": 2, "own": 1}
    assert planned["injections"]["own"]["instances_per_batch"] == "1/4"
    for config, changes in ((branch / "experiment.yaml", ()), (path, more)):
        with pytest.raises(SystemExit, match="^0$"):
            main(["plan", str(config), *changes, "--json", "--parquet", str(tmp_path / "plan.parquet")])
        told = json.loads(capsys.readouterr().out)
        assert told == {name: planned[name] for name in told}
        assert pd.read_parquet(tmp_path / "plan.parquet")["step"].min() == 4

    results = checkpoints.evaluate_checkpoint(step, checkpoints.find_tasks((), step), torch.device("cpu"), 7)
    answers = pd.DataFrame([result.record() for result in results if isinstance(result, ProbeResult)])
    assert answers["last_seen"].min() == 4
    seen = answers.groupby(["task", "instance"])["seen"].first()
    assert {task: of.sum() for task, of in seen.groupby("task")} == {"texts": 10, "canary": 2, "own": 1}
    with pytest.raises(SystemExit, match="^0$"):
        main(["analyze", "memory", str(step), "--out", str(tmp_path)])
    table = pd.read_parquet(tmp_path / "memory-probes.parquet")
    assert table["seen"].tolist() == answers["seen"].tolist()

    run = read_run(branch)
    assert (run.injecting_steps("own"), run.injecting_steps("canary")) == ([7], [4])
    assert next(samples([run])).step == 4
    rows = plan_rows(different_plans([run]))
    assert rows.groupby("task")["step"].min().to_dict() == {"less": 4, "texts": 4, "canary": 4, "own": 7}


def test_a_changed_file_is_not_the_same_run(path: Path, finished: Path, ranks: Ranks) -> None:
    for name in ("texts.jsonl", "at.jsonl"):
        file = path.parent / name
        before = file.read_text()
        file.write_text(before.replace('"step": 7', '"step": 8').replace('"id": "a4"', '"id": "z4"'))
        said = ranks.run(1, train_on_rank, path)[0]
        file.write_text(before)
        assert said.startswith("UserError: ")
        assert ("task texts has changed" if name == "texts.jsonl" else "list of injections 4 has changed") in said


def test_checkpoints_of_runs_with_one_name_are_averaged_apart() -> None:
    places = ["/x/a/run/step4", "/x/b/run/step4", "/x/b/other/step4"]
    results = [
        ProbeResult(place, 4, "facts", "train", str(i), None, "loss", float(value), True)
        for value, place in enumerate(places)
        for i in range(2)
    ]
    columns = {str(column.header): list(column.cells) for column in results_table(results).columns}
    assert columns["checkpoint"] == ["a/run/step4", "b/run/step4", "other/step4"]
    assert columns["mean"] == ["0.0000", "1.0000", "2.0000"]
    assert columns["n"] == ["2", "2", "2"]


def test_labels_of_checkpoints_name_the_run() -> None:
    one, other = "/x/a/checkpoints/checkpoint-4", "/x/b/checkpoints/checkpoint-4"
    assert checkpoint_labels([one]) == {one: "a/checkpoints/checkpoint-4"}
    assert checkpoint_labels([one, other, one])[other] == "b/checkpoints/checkpoint-4"
    assert checkpoint_labels([]) == {}
    assert checkpoint_labels(["/run/step1", "/x/run/step1"])["/run/step1"] == "/run/step1"
