"""A sweep on a real SLURM, through what happens on clusters, and the same cells trained here without interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import ELEMENTS, Cluster, missing, wait_until
from ranks import Ranks
from runs import metrics, same_bits, train_on_rank, write_experiment

from launch.job_arrays import elements
from launch.slurm import ARRAYS
from olmo_inject.audit import audit_run
from olmo_inject.cli import main

REPOSITORY = Path(__file__).parents[2]
STEPS = 160
SWEEP = """
name: faults
folder: {folder}
experiment: {experiment}
set: {{train.max_duration: {steps}, train.save_interval: 20, train.eval_interval: 80, safety.spike_factor: null}}
axes:
  - {{name: rate, key: injections.0.instances_per_batch, values: [1/2, 1, 2]}}
  - {{name: ranks, cases: {{one: {{}}, two: {{}}}}}}
exclude: [{{ranks: two, rate: [1, 2]}}]
rules: [{{when: {{ranks: two}}, resources: {{nodes: 2}}}}]
resources: {{gpus_per_node: 0, time: "01:00:00"}}
"""
WIDE = "rate-1of2_ranks-two"  # over both nodes
CELLS = ["rate-1of2_ranks-one", WIDE, "rate-1_ranks-one", "rate-2_ranks-one"]
PATIENCE = 800.0  # seconds; a busy machine takes its time
EVERY = 2.0  # seconds between two looks at SLURM's queue
MIDDLE = 30  # the step after which cells are stopped and killed

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


class Job(NamedTuple):
    number: str
    state: str
    minutes: int
    nodes: str


class Sweeping:
    """The command on one sweep, and what is seen of its cells from outside."""

    def __init__(self, file: Path, folder: Path, cluster: Cluster) -> None:
        self.file, self.folder, self.cluster = file, folder, cluster

    def start(self, verb: str, *options: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        command = [sys.executable, "-m", "olmo_inject", "sweep", verb, str(self.file), *options]
        environment = self.cluster.environment | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True)

    def say(self, verb: str, *options: str, status: int = 0) -> str:
        """The command here, which saves the time of imports."""
        out = StringIO()
        with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as exit_:
            main(["sweep", verb, str(self.file), *options])
        assert (exit_.value.code or 0) == status, out.getvalue()
        return out.getvalue()

    def states(self) -> dict[str, str]:
        return {record["cell"]: record["state"] for record in json.loads(self.say("status", "--json"))}

    def jobs(self) -> dict[str, Job]:
        """Of each cell; none has two."""
        found: dict[str, Job] = {}
        lines = self.cluster.say("squeue", "--noheader", "--array", "--format=%F %K %T %M %o %N").splitlines()
        for array, place, state, elapsed, script, *nodes in (line.split() for line in lines):
            cell = Path(script).with_suffix(".cells").read_text().splitlines()[int(place)]
            assert cell not in found, f"two jobs for {cell}"
            minutes = int(elapsed.split(":")[-2])  # of minutes:seconds
            found[cell] = Job(f"{array}_{place}", state, minutes, nodes[0] if nodes else "")
        return found

    def step(self, cell: str) -> int:
        """Steps measured in whole lines so far."""
        try:
            lines = (self.folder / "runs" / cell / "metrics.jsonl").read_text().split("\n")[:-1]
        except FileNotFoundError:
            return 0
        return max((json.loads(line)["step"] for line in lines if '"train/loss"' in line), default=0)

    def ranks(self, cell: str) -> list[int]:
        """Process ids of the cell's ranks, not of what started them: the command of a cell of one rank is its rank."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                mine = f"\0train\0{self.folder}/configs/{cell}.yaml\0".encode() in command
                if not mine or not command.startswith(sys.executable.encode()):  # srun
                    continue
                if b"\0--nodes\0" not in command or b"\0TORCHELASTIC_RUN_ID=" in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it has just ended
        return found

    def signal(self, cell: str, number: signal.Signals) -> None:
        for process in self.ranks(cell):
            os.kill(process, number)

    def stop_in_the_middle(self, cells: list[str]) -> None:
        """Hold each cell's ranks once it is half-way, so that what comes next finds it there."""
        waiting = set(cells)
        hurried = 0.0

        def stop_those() -> bool:
            nonlocal hurried
            if time.monotonic() > hurried + EVERY:  # seldom, since it starts processes
                self.cluster.hurry()
                hurried = time.monotonic()
            for cell in list(waiting):
                if self.step(cell) >= MIDDLE:
                    self.signal(cell, signal.SIGSTOP)
                    waiting.remove(cell)
            return not waiting

        wait_until(stop_those, PATIENCE, f"{cells} to train", every=0.1)
        assert all(self.step(cell) < STEPS - 1 for cell in cells)


def test_what_waits_in_the_queue_is_cancelled_and_is_as_it_was(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    file, experiment = tmp_path / "sweep.yaml", write_experiment(tmp_path / "data")
    file.write_text(SWEEP.format(folder=tmp_path / "slurm", experiment=experiment, steps=STEPS))
    slurm = Sweeping(file, tmp_path / "slurm", cluster)
    site = tmp_path / "site.yaml"
    site.write_text("sbatch: [--hold]")
    failed, *others = CELLS
    exit_status = slurm.folder / "attempts" / f"{failed}.exit"
    exit_status.parent.mkdir(parents=True)
    exit_status.write_text("1\n")

    # Three cells are alike, and an array holds two.
    said = slurm.say("submit", "--site", str(site), "--retry-failed")
    assert [said.count(f": {ELEMENTS} cells, script"), said.count(": 1 cell, script")] == [1, 2]
    assert sorted(slurm.jobs()) == sorted(CELLS)
    assert slurm.states() == dict.fromkeys(CELLS, "queued")
    assert "took 4 cells out of SLURM's queue" in slurm.say("cancel")
    wait_until(lambda: not slurm.jobs(), PATIENCE, "the queue to be empty")
    assert slurm.states() == {failed: "failed"} | dict.fromkeys(others, "pending")

    # They may change. One that starts while it is taken out of the queue is not killed; its script sees that it stops.
    file.write_text(file.read_text().replace("train.max_duration", "plan_seed: 9, train.max_duration"))
    end, script = tmp_path / "end", tmp_path / "own.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --array=0 --output=/dev/null\nuntil [ -e {end} ]; do sleep 0.1; done\n")
    site.write_text(f"template: {script}")
    slurm.say("submit", "--site", str(site), "--only", "rate=2")
    wait_until(lambda: slurm.states()[CELLS[-1]] == "running", PATIENCE, "the cell to run")
    (element,) = elements(slurm.folder / ARRAYS)
    monkeypatch.setattr("launch.slurm.elements", lambda _: [replace(element, state="queued")])  # as it was a moment ago
    slurm.say("cancel")
    assert slurm.jobs()[CELLS[-1]].state == "RUNNING"
    end.touch()
    wait_until(lambda: not slurm.jobs(), PATIENCE, "the job to end")


@pytest.mark.timeout(1800)
def test_through_faults_every_cell_is_trained_once_and_as_on_one_machine(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    file, experiment = tmp_path / "sweep.yaml", write_experiment(tmp_path / "data")
    file.write_text(SWEEP.format(folder=tmp_path / "slurm", experiment=experiment, steps=STEPS))
    slurm = Sweeping(file, tmp_path / "slurm", cluster)
    site = tmp_path / "site.yaml"
    site.write_text("{sbatch: [--partition=all], setup: [export FROM_SITE=yes], signal_seconds: 115}")
    submit = ("submit", "--site", str(site))

    # Two submitters at once: every cell is submitted by one of them.
    submitters = [slurm.start(*submit) for _ in range(2)]
    said = [process.communicate() for process in submitters]
    assert {process.returncode for process in submitters} <= {0, 2}, said
    assert sorted(slurm.jobs()) == sorted(CELLS)

    # The node of two cells has no room for the one that needs both nodes, until the process of one is killed.
    slurm.stop_in_the_middle([cell for cell in CELLS if cell != WIDE])
    where = {cell: job.nodes for cell, job in slurm.jobs().items() if cell != WIDE}
    crowded = max(where.values(), key=list(where.values()).count)
    killed, orphaned = (cell for cell in where if where[cell] == crowded)
    (limited,) = (cell for cell in where if where[cell] != crowded)
    slurm.signal(killed, signal.SIGKILL)
    slurm.stop_in_the_middle([WIDE])

    # The crowded node's daemon dies and comes back; SLURM requeues what ran there, which is still running.
    cluster.kill_node(crowded)

    def requeued() -> bool:
        jobs = slurm.jobs()
        return jobs[orphaned].state == jobs[WIDE].state == "PENDING"

    wait_until(requeued, PATIENCE, "jobs to be requeued", every=EVERY)
    found = {record["cell"]: record for record in json.loads(slurm.say("status", "--json"))}
    states = {cell: record["state"] for cell, record in found.items()}
    assert any("was killed by SIGKILL" in line for line in found[killed]["why"]), found[killed]
    assert (states[killed], states[limited]) == ("failed", "running")
    assert "0 of 4 cells to train" in slurm.say(*submit, status=1)  # the one that failed is left
    cluster.start_node(crowded)

    # The third cell nears its time limit, which is brought to the next minute but one: SLURM counts in minutes, and
    # signals at once what ends sooner than `signal_seconds`.
    job = slurm.jobs()[limited]
    cluster.say("scontrol", "update", f"JobId={job.number}", f"TimeLimit={job.minutes + 2}")
    wait_until((slurm.folder / "runs" / limited / "stop").exists, PATIENCE, "the signal before the time limit")
    cluster.say("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")  # for the time after it is requeued
    slurm.signal(limited, signal.SIGCONT)
    assert "1 of 4 cells to train" in slurm.say(*submit, "--retry-failed")

    def ended() -> bool:
        cluster.hurry()
        return not slurm.jobs()

    wait_until(ended, PATIENCE, "all cells to end", every=EVERY)
    print(f"{time.monotonic() - begun:.0f} s on SLURM")
    assert slurm.states() == dict.fromkeys(CELLS, "done"), (slurm.say("status"), logs(slurm))
    assert "saved before the time limit" in (slurm.folder / "logs" / f"{limited}.log").read_text()
    assert "0 of 4 cells to train" in slurm.say(*submit, "--retry-failed")

    # Two ranks on two nodes there are two ranks of one node here.
    ranks = Ranks(2)
    request.addfinalizer(ranks.close)
    for cell in CELLS:
        run, same = slurm.folder / "runs" / cell, tmp_path / "same" / cell
        world, config = 2 if cell == WIDE else 1, slurm.folder / "configs" / f"{cell}.yaml"
        ranks.run(world, train_on_rank, config, f"folder={same}")
        assert audit_run(run, progress=False).passed
        steps = [line["step"] for line in metrics(run) if line["name"] == "train/loss"]
        assert steps == list(range(STEPS)), cell
        assert same_bits(run, same, STEPS), cell


def logs(sweep: Sweeping) -> str:
    """For a failure's message."""
    return "\n".join(path.read_text()[-3000:] for path in sorted((sweep.folder / "logs").glob("*.log")))
