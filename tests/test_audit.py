"""The audit must find whatever a run was given beside its plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ranks import alone
from runs import BATCH, train_on_rank, write_experiment

from olmo_inject.audit import Audit, audit_run
from olmo_inject.cli import main
from olmo_inject.runs.read import AUDIT
from olmo_inject.utils.files import read_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    path = write_experiment(folder)
    with alone():
        assert "trained" in train_on_rank(path, "train.max_duration=5", "train.save_data_indices=true")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_an_honest_run_passes(run: Path) -> None:
    audit = audit_run(run, progress=False)
    assert audit.passed
    assert audit.steps == 5
    # 5/2 a batch for five batches, and two in batches 0 and 3.
    assert audit.labels == {"less": 12, "plus": 4}
    assert audit.checks["tokens given to the model"] == 5


def test_names_are_whole_and_an_unfinished_run_is_identical_so_far(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sweep = run.parent / "sweep" / "runs"  # whose folder stands for its runs
    names = [f"model-tiny-64_rate-1over1000_seed-{seed}_of-a-name-that-is-long" for seed in (1, 2)]
    for name in names:
        shutil.copytree(run, sweep / name)
    for checkpoint in (sweep / names[1]).glob("step*"):
        shutil.rmtree(checkpoint)
    _drop_the_end(sweep / names[1])
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(run.parent / "sweep")])
    assert ended.value.code == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    verdicts = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert [(row[0], row[-1]) for row in verdicts] == [
        (names[0], "identical"),
        (names[1], "identical so far (4 of 5 steps)"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(run.parent / "nothing")])
    assert "nothing does not exist" in capsys.readouterr().err


def _edit_evidence(key: str, value: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        lines = [json.loads(line) for line in (run / "evidence.jsonl").read_text().splitlines()]
        lines[3][key] = value
        (run / "evidence.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return edit


def _drop_a_step(run: Path) -> None:
    lines = (run / "evidence.jsonl").read_text().splitlines(keepends=True)
    (run / "evidence.jsonl").write_text("".join(lines[:2] + lines[3:]))


def _keep_the_last_steps(run: Path) -> None:
    lines = (run / "evidence.jsonl").read_text().splitlines(keepends=True)
    (run / "evidence.jsonl").write_text("".join(lines[3:]))


def _drop_the_end(run: Path) -> None:
    lines = (run / "evidence.jsonl").read_text().splitlines(keepends=True)
    (run / "evidence.jsonl").write_text("".join(lines[:-1]))


def _swap_positions(run: Path) -> None:
    path = next((run / "data-indices").glob("*.tsv"))
    lines = path.read_text().splitlines()
    fields = lines[1].split("\t")
    fields[1] = fields[2]
    lines[1] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n")


def _other_rate(run: Path) -> None:
    path = run / "experiment.yaml"
    path.write_text(path.read_text().replace("instances_per_batch: 5/2", "instances_per_batch: 3"))


def _other_plan_seed(run: Path) -> None:
    path = run / "experiment.yaml"
    path.write_text(path.read_text().replace("plan_seed: 0", "plan_seed: 1"))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_edit_evidence("tokens", "0" * 16), "step 3: tokens given to the model"),
        (_edit_evidence("labels", {"less": 1, "plus": 2}), "step 3, less: answer tokens in the loss"),
        (_edit_evidence("rows", BATCH - 1), "step 3: rows"),
        (_edit_evidence("overrides", 1), "step 3: masks lifted"),
        (_drop_a_step, "steps without a gap"),
        (_edit_evidence("targets", 7), "step 3: targets"),
        (_keep_the_last_steps, "first line"),
        (_drop_the_end, "up to the last checkpoint"),
        (lambda run: shutil.rmtree(run / "data-indices"), "positions missing"),
        (_swap_positions, "data-indices"),
        (_other_rate, "answer tokens in the loss"),
        (_other_plan_seed, "tokens given to the model"),
    ],
)
def test_whatever_was_changed_is_found(run: Path, spoil: Callable[[Path], None], found: str) -> None:
    spoil(run)
    audit = audit_run(run, progress=False)
    assert not audit.passed
    assert any(found in difference for difference in audit.differences), audit.differences


def test_what_a_kill_left_beyond_the_last_checkpoint_is_no_difference(run: Path) -> None:
    for checkpoint in run.glob("step*"):
        shutil.rmtree(checkpoint)
    path = next((run / "data-indices").glob("*.tsv"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    audit = audit_run(run, progress=False)
    assert audit.passed, audit.differences
    assert audit.steps == 5


def test_a_changed_token_of_the_corpus_is_found(trained: Path) -> None:
    shard = trained / "part-0.npy"
    before = shard.read_bytes()
    tokens = np.frombuffer(before, np.uint16).copy()
    tokens[5::16] ^= 1  # token 5 of every sequence: host text, whichever rows the five steps read
    try:
        shard.write_bytes(tokens.tobytes())
        audit = audit_run(trained / "run", progress=False)
    finally:
        shard.write_bytes(before)
    assert any("tokens given to the model" in difference for difference in audit.differences)


def test_no_evidence_is_no_pass(run: Path) -> None:
    (run / "evidence.jsonl").write_text("")
    assert not audit_run(run, progress=False).passed


def test_the_command_ends_with_the_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spoil, status in ((lambda run: None, 0), (_drop_a_step, 1)):
        spoil(run)
        with pytest.raises(SystemExit) as ended:
            main(["audit", str(run), "--json"])
        assert ended.value.code == status
        (record,) = json.loads(capsys.readouterr().out)
        assert record["passed"] == (status == 0)
        assert set(record) == set(Audit("x").record())
        assert read_json(run / AUDIT) == record  # where a report finds it


def test_runs_of_one_name_are_told_apart(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    other = run.parent / "other" / "run"
    shutil.copytree(run, other)
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(run), str(other)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "other/run" in out
    assert f"{run.parent.name}/run" in out
