"""Cells of a sweep on this machine: trained once, gone on with, retried, refused when changed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from cluster import wait_until
from rich.console import Console
from sweeps import small_sweep, write_sweep

from launch import cells, local
from launch.sweep import Cell, Sweep, load_sweep
from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import in_use, locked
from olmo_inject.runs.read import EXPERIMENT

OFTEN, RARE = "rate-2", "rate-1of2"


def say(verb: str, file: Path, *options: str) -> tuple[int, str]:
    """The command's exit status, and all it printed."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as end:
        main(["sweep", verb, str(file), *options])
    return int(end.value.code or 0), out.getvalue()


def states(file: Path) -> dict[str, str]:
    return {record["cell"]: record["state"] for record in json.loads(say("status", file, "--json")[1])}


def begin(sweep: Sweep, cell: Cell) -> cells.CellFiles:
    """As if the cell had begun here, and been interrupted."""
    cells.begin(sweep, cell, {"backend": "local"})
    files = cells.files(sweep, cell)
    files.run.mkdir(parents=True)
    (files.run / EXPERIMENT).touch()
    return files


def check_unchanged(sweep: Sweep) -> None:
    cells.check_unchanged(sweep, cells.statuses(sweep, {}))


@pytest.mark.slow
def test_a_sweep_is_gone_on_with_until_every_cell_is_done(tmp_path: Path) -> None:
    file = write_sweep(tmp_path)
    run = tmp_path / "sweep" / "runs" / RARE
    assert states(file) == {RARE: "pending", OFTEN: "pending"}
    assert not (tmp_path / "sweep").exists()

    run.mkdir(parents=True)
    (run / "foreign").touch()  # so this cell cannot begin
    status, said = say("run", file)
    assert (status, states(file)) == (1, {RARE: "failed", OFTEN: "done"})
    assert "2 of 2 cells to train" in said
    failed = json.loads(say("status", file, "--json")[1])[0]
    assert "exists and is not a run" in failed["why"][-1]
    assert f"{RARE} failed:\n  olmo-inject: {run} exists and is not a run" in say("status", file)[1]

    (run / "foreign").unlink()
    trained = (tmp_path / "sweep" / "runs" / OFTEN / "metrics.jsonl").stat()
    status, said = say("run", file)
    assert status == 1  # one is not trained, and this does not train it
    assert "0 of 2 cells to train: 1 failed, 1 done" in said
    assert "1 failed before" in said
    assert "--retry-failed" in said
    status, said = say("run", file, "--retry-failed")
    assert (status, states(file)) == (0, {RARE: "done", OFTEN: "done"})
    assert "1 of 2 cells to train" in said
    assert "next: olmo-inject audit" in said
    assert (tmp_path / "sweep" / "runs" / OFTEN / "metrics.jsonl").stat() == trained
    assert all(audit_run(tmp_path / "sweep" / "runs" / cell, progress=False).passed for cell in (RARE, OFTEN))

    shown = json.loads(say("status", file, "--json")[1])[0]
    assert (shown["step"], shown["steps"], set(shown["accuracies"])) == (12, 12, {"less", "plus"})


def test_cells_that_slurm_has_are_not_called_trained(tmp_path: Path, queue: Path) -> None:
    folder = load_sweep(file := write_sweep(tmp_path)).folder.resolve()
    assert say("submit", file)[0] == 0
    queue.write_text(f"17 0 RUNNING {folder}/arrays/0.sbatch\n17 1 PENDING {folder}/arrays/0.sbatch\n")
    status, said = say("run", file)
    assert status == 1
    assert "not every cell is trained: 1 running, 1 queued\n" in said
    assert "next: " not in said


def test_a_queue_that_cannot_be_asked_from_here_is_said(
    tmp_path: Path, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep(tmp_path)
    assert say("submit", file)[0] == 0
    assert "squeue is not installed" not in say("status", file)[1]
    monkeypatch.setattr(local, "run_cells", lambda *_, **__: True)  # says what remains, and trains nothing
    assert "squeue is not installed" not in say("run", file)[1]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "squeue is not installed here" in say("status", file)[1]
    assert "squeue is not installed here" in say("run", file)[1]


def test_a_cell_that_leaves_slurms_queue_before_it_starts_is_as_before(tmp_path: Path, queue: Path) -> None:
    sweep = load_sweep(file := write_sweep(tmp_path))
    cells.files(sweep, sweep.cells[1]).exit_status.parent.mkdir(parents=True)
    cells.files(sweep, sweep.cells[1]).exit_status.write_text("1\n")
    assert say("submit", file, "--retry-failed")[0] == 0
    script = sweep.folder.resolve() / "arrays" / "0.sbatch"
    queue.write_text(f"17 0 PENDING {script}\n17 1 PENDING {script}\n")
    assert states(file) == {RARE: "queued", OFTEN: "queued"}
    file.write_text(file.read_text().replace("max_duration: 12", "max_duration: 12, plan_seed: 9"))
    assert states(file) == {RARE: "changed", OFTEN: "changed"}
    assert "changed after being submitted (plan_seed" in say("submit", file)[1]
    queue.write_text("")
    assert states(file) == {RARE: "pending", OFTEN: "failed"}
    assert "1 of 2 cells to train: 1 pending, 1 failed" in say("submit", file)[1]


def test_a_cell_that_was_killed_is_said_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(file := write_sweep(tmp_path), only=["rate=2"])
    python, run = tmp_path / "python", cells.files(sweep, sweep.cells[0]).run
    python.write_text(f"#!/bin/sh\nmkdir -p {run}\ntouch {run / EXPERIMENT}\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    status, said = say("run", file, "--only", "rate=2")
    assert status == 1
    assert f"{OFTEN}: killed by SIGKILL after " in said
    assert "not every cell is trained: 1 interrupted; the same command resumes what was interrupted\n" in said


def write_python(folder: Path, monkeypatch: pytest.MonkeyPatch, cells: dict[str, str]) -> None:
    """In place of Python, shell lines for each cell, which find its run folder made."""
    body = "".join(f"*/{cell}.yaml) {lines};;\n" for cell, lines in cells.items())
    make = f'run={folder}/sweep/runs/$(basename "$4" .yaml)\nmkdir -p $run\ntouch $run/{EXPERIMENT}\n'
    (folder / "python").write_text(f'#!/bin/sh\n{make}case "$4" in\n{body}esac\n')
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_what_a_sweep_will_not_train_again_is_not_called_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(file := write_sweep(tmp_path))
    begun, end = tmp_path / "begun", tmp_path / "end"
    waits = f"touch {begun}; until [ -e {end} ]; do sleep 0.05; done"
    write_python(tmp_path, monkeypatch, {RARE: "kill -9 $$", OFTEN: waits})
    # The first is killed; then, with `--only`, the other is trained alone.
    for options, to_train in (((), "2 of 2"), (("--only", "rate=2"), "1 of 1")):
        found: list[cells.Status] = []

        def look(found: list[cells.Status] = found) -> None:
            wait_until(begun.exists, 60, "the second cell")
            found += cells.statuses(sweep, local.waiting(sweep))
            end.touch()

        thread = threading.Thread(target=look)
        thread.start()
        assert f"{to_train} cells to train" in say("run", file, "--at-once", "1", *options)[1]
        thread.join()
        assert {status.cell: status.state for status in found} == {RARE: "interrupted", OFTEN: "queued"}
        begun.unlink()
        end.unlink()


def test_a_cell_that_never_started_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the first cell trains: the definition of the other may change, and if it failed, it has failed."""
    sweep = load_sweep(file := write_sweep(tmp_path))
    write_python(tmp_path, monkeypatch, {RARE: "kill -INT $PPID; sleep 60"})
    assert say("run", file, "--at-once", "1")[0] == 130
    assert states(file) == {RARE: "interrupted", OFTEN: "pending"}
    cells.files(sweep, sweep.cells[1]).exit_status.write_text("1\n")
    assert say("run", file, "--at-once", "1", "--retry-failed")[0] == 130
    assert states(file) == {RARE: "interrupted", OFTEN: "failed"}
    file.write_text(file.read_text().replace("max_duration: 12", "max_duration: 12, plan_seed: 9"))
    assert states(file) == {RARE: "changed", OFTEN: "failed"}
    assert f"{RARE} changed after being submitted (plan_seed" in say("run", file)[1]
    assert "1 of 1 cells to train" in say("run", file, "--only", "rate=2", "--retry-failed")[1]


@pytest.mark.slow
def test_a_killed_submitter_is_followed_by_another_that_doubles_nothing(tmp_path: Path) -> None:
    file = write_sweep(tmp_path)
    file.write_text(file.read_text().replace("max_duration: 12", "max_duration: 60000, train.save_interval: 20"))
    command = [sys.executable, "-m", "olmo_inject", "sweep", "run", str(file), "--at-once", "1"]
    repository = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.DEVNULL)
    run = tmp_path / "sweep" / "runs" / RARE
    try:
        wait_until((run / "step20" / "checkpoint.json").exists, 300, "a checkpoint")
        assert states(file) == {RARE: "running", OFTEN: "queued"}
        status, said = say("run", file)
        assert status == 2
        assert f"process {process.pid} on host " in said
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not in_use(run), 300, "the cell to save, as its submitter is dead")
    assert states(file) == {RARE: "interrupted", OFTEN: "pending"}

    # Cancelled, the next submitter lets its cell save.
    process = subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: in_use(run), 300, "the cell to begin")
    assert f"process {process.pid} " in say("cancel", file)[1]
    assert process.wait(120) == 130
    assert states(file) == {RARE: "interrupted", OFTEN: "pending"}
    assert "no cell is running" in say("cancel", file)[1]


@pytest.mark.slow
def test_cells_that_a_killed_submitter_left_are_waited_for(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    left = cells.files(sweep, sweep.cells[0]).run
    cells.begin(sweep, sweep.cells[0], {"backend": "local", "host": socket.gethostname()})
    shown = StringIO()
    with ExitStack() as saving:
        left.mkdir(parents=True)
        saving.enter_context(locked(left))
        threading.Timer(1.5, saving.close).start()
        local.wait_for_orphans(sweep, Console(file=shown, width=200))
        assert not in_use(left)
    assert f"waiting for {RARE} " in shown.getvalue()


@pytest.mark.slow
def test_a_changed_definition_is_refused_and_under_another_name_a_new_cell(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    for cell in sweep.cells:
        begin(sweep, cell)
    check_unchanged(sweep)
    file = tmp_path / "sweep.yaml"
    text = file.read_text()
    file.write_text(text.replace("max_duration: 12", "max_duration: 12, train.save_interval: 6"))
    check_unchanged(load_sweep(file))
    file.write_text(text.replace("max_duration: 12", "max_duration: 12, plan_seed: 9"))
    status, said = say("run", file)
    assert status == 2
    assert all(named in said for named in ("plan_seed 0 -> 9", RARE, OFTEN))
    assert states(file) == {RARE: "changed", OFTEN: "changed"}
    file.write_text(text.replace("max_duration: 12", "max_duration: 12, plan_seed: 9").replace("/sweep\n", "/other\n"))
    check_unchanged(load_sweep(file))
    assert states(file) == {RARE: "pending", OFTEN: "pending"}


def test_more_steps_that_would_move_repetitions_are_refused(tmp_path: Path) -> None:
    file, experiment = write_sweep(tmp_path), tmp_path / "data" / "experiment.yaml"
    text = experiment.read_text()
    old = "schedule: burst, instances: 2, every: 3"
    experiment.write_text(text.replace(old, "schedule: repetitions, times: 2"))
    sweep = load_sweep(file)
    for cell in sweep.cells:
        begin(sweep, cell)
    file.write_text(file.read_text().replace("max_duration: 12", "max_duration: 16"))
    with pytest.raises(UserError, match=r"injections\.1\.stop 12 -> 16 .*: give stop: 12") as refused:
        check_unchanged(load_sweep(file))
    assert "\n" not in str(refused.value)
    experiment.write_text(text.replace(old, "schedule: repetitions, times: 2, stop: 12"))
    check_unchanged(load_sweep(file))


def test_cells_of_an_earlier_version_are_the_same_cells(tmp_path: Path) -> None:
    """An earlier version hashed otherwise, and did not know a key that was added since."""
    sweep = small_sweep(tmp_path)
    for cell in sweep.cells:
        of_cell = begin(sweep, cell)
        of_cell.attempt.write_text(json.dumps({"identity": "0" * 16, "backend": "local"}))
        of_cell.config.write_text(of_cell.config.read_text().replace("  longer: refuse\n", ""))
    check_unchanged(sweep)
    assert set(states(tmp_path / "sweep.yaml").values()) == {"interrupted"}


def test_looking_at_a_run_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert in_use(tmp_path)
        with pytest.raises(UserError, match="in use"), locked(tmp_path):
            pass
    with (tmp_path / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, looking.close).start()
        with locked(tmp_path):
            assert in_use(tmp_path)


def test_what_cannot_run_here_is_refused(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path, more="rules: [{when: {rate: 2}, resources: {nodes: 2}}]\n")
    with pytest.raises(UserError, match="rate-2 needs 2 nodes"):
        local.run_cells(sweep, sweep.cells, at_once=None, console=Console())
    # What is refused leaves a cell that failed as it is.
    sweep = small_sweep(tmp_path, more="rules: [{when: {rate: 2}, resources: {gpus_per_node: 12}}]\n")
    cells.begin(sweep, sweep.cells[0], {"backend": "local"})
    cells.files(sweep, sweep.cells[0]).exit_status.write_text("1\n")
    with pytest.raises(UserError, match="rate-2 needs 12 GPUs; this machine has"):
        local.run_cells(sweep, sweep.cells, at_once=1, console=Console())
    assert [status.state for status in cells.statuses(sweep, {})] == ["failed", "pending"]


def test_a_submitter_on_another_host_is_not_killed_here(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    with cells.submitting(sweep):
        (sweep.folder / cells.SUBMITTER).write_text(f"elsewhere {os.getpid()}\n")
        with pytest.raises(UserError, match="on host elsewhere: cancel it there"):
            local.cancel(sweep)


def test_a_damaged_checkpoint_fails_its_cell_only(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    (sweep.folder / "runs" / RARE / "step4").mkdir(parents=True)
    (sweep.folder / "runs" / RARE / "step4" / "checkpoint.json").write_text("{")
    found = cells.statuses(sweep, {})
    assert [status.state for status in found] == ["failed", "pending"]
    assert "step4" in found[0].why[0]
    # Its job may be removing just this checkpoint: what runs is not submitted again.
    assert [status.state for status in cells.statuses(sweep, {RARE: "running"})] == ["running", "pending"]
