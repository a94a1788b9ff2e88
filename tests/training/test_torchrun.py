"""Runs as a user starts them: the command, real torchrun, real signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from ranks import Ranks
from runs import metrics, same_bits, series, train_on_rank, write_experiment

from olmo_inject.audit import audit_run
from olmo_inject.training.checkpoints import on_disk

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
STEPS = 160
SETTINGS = (
    f"train.max_duration={STEPS}",
    "train.save_interval=10",
    "train.eval_interval=40",
    "safety.spike_factor=null",
)


def start(path: Path, run: Path, *more: str, ranks: int = 2, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    overrides = [f"folder={run}", *SETTINGS, *more]
    command = [*under, sys.executable, "-m", "olmo_inject", "train", str(path), *overrides, "--processes", str(ranks)]
    (run.parent / "t").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(run.parent / "t")}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300  # a busy machine takes its time
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def processes_of(run: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"folder={run}".encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has just ended
    return found


def parent_of(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(run: Path, seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while processes_of(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(run)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose processes, also of a test that failed, do not outlive the test."""
    yield tmp_path / "run"
    for pid in processes_of(tmp_path / "run"):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_kill_terminate_and_resume_end_as_if_never_interrupted(tmp_path: Path, run: Path, ranks: Ranks) -> None:
    path = write_experiment(tmp_path)
    whole = tmp_path / "whole"

    workers = "train.data.num_workers=2"
    process = start(path, run, workers)
    wait_for(lambda: on_disk.latest(run) is not None, process)
    # The loader's workers are left to find out by themselves.
    for pid in [pid for pid in processes_of(run) if process.pid in (pid, parent_of(pid))]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    (run / ".plan.json.123.tmp").write_text("{")
    assert gone(run, seconds=2)
    killed_at = on_disk.latest(run)
    assert killed_at is not None
    assert killed_at.step < STEPS

    process = start(path, run, workers)
    wait_for(lambda: len(series(run, "train/loss")) > killed_at.step + 10, process)
    process.send_signal(signal.SIGTERM)  # torchrun's agent passes it on to all processes of a rank
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert not list(run.glob(".*.tmp"))
    assert gone(run)
    terminated_at = on_disk.latest(run)
    assert terminated_at is not None
    # Saved where it stopped, not at the interval.
    assert terminated_at.step == max(m["step"] for m in metrics(run) if m["name"] == "train/loss") + 1

    process = start(path, run)
    _, said = process.communicate()
    assert process.returncode == 0, said
    # What is shown last is the end's evaluation, not an earlier one's.
    shown = (
        f"{STEPS}/{STEPS} steps",
        f"accuracy at step {STEPS}: less {series(run, 'eval/less/test/accuracy_unmirrored')[STEPS]:.3f}",
    )
    assert any(all(part in line for part in shown) for line in said.splitlines()), said
    assert not list((run.parent / "t").glob("*elastic*"))
    ranks.run(2, train_on_rank, path, f"folder={whole}", *SETTINGS)
    assert same_bits(whole, run, STEPS)
    assert audit_run(run, progress=False).passed


def test_a_second_command_is_refused_and_ranks_do_not_outlive_theirs(tmp_path: Path, run: Path) -> None:
    path = write_experiment(tmp_path)
    long = "train.max_duration=20000"
    first = start(path, run, long)
    wait_for(lambda: len(processes_of(run)) == 3 and (run / "evidence.jsonl").exists(), first)
    held = processes_of(run)
    for pid in held:  # it leaves the cores to the second
        os.kill(pid, signal.SIGSTOP)
    second = start(path, run, long, ranks=1)
    _, said = second.communicate()
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    assert second.returncode == 2
    assert [line for line in said.splitlines() if "is in use" in line]
    assert "Traceback" not in said
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert gone(run)


def test_a_rank_killed_with_its_command_while_it_starts_is_gone(tmp_path: Path, run: Path) -> None:
    process = start(write_experiment(tmp_path), run)
    wait_for(lambda: len(processes_of(run)) == 3, process)
    process.kill()
    process.communicate()
    assert gone(run, seconds=5)


def test_ctrl_c_in_every_process_saves_and_a_killed_worker_ends_the_run(tmp_path: Path, run: Path) -> None:
    path, workers = write_experiment(tmp_path), "train.data.num_workers=1"
    process = start(path, run, workers, "train.max_duration=100000", "train.save_interval=null", ranks=1)
    wait_for(lambda: (run / "evidence.jsonl").exists() and len(series(run, "train/loss")) > 5, process)
    for pid in processes_of(run):
        os.kill(pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    saved = on_disk.latest(run)
    assert saved is not None
    assert saved.step == max(series(run, "train/loss")) + 1

    process = start(path, run, workers, "train.max_duration=100000", ranks=1)
    wait_for(lambda: max(series(run, "train/loss")) > saved.step + 5, process)
    (worker,) = [pid for pid in processes_of(run) if pid != process.pid]  # a single rank is the command itself
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 2
    assert "Traceback" not in said
    # torch says "(pid 7) is killed by signal" or "(pid(s) 7) exited unexpectedly", by which check comes first; or the
    # worker dies while it hands over a batch
    assert re.match(rf"olmo-inject: DataLoader worker (\(pid.* {worker}\)|died \()", said.splitlines()[-1])
    assert gone(run)


def test_a_host_s_name_need_not_resolve(tmp_path: Path, run: Path) -> None:
    shell = 'hostname no-such-host.invalid && exec "$@"'
    under = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", shell, "sh"]
    if subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot give a process another host name here")
    _, said = start(write_experiment(tmp_path), run, "train.max_duration=2", under=under).communicate()
    assert "2/2 steps" in said, said
