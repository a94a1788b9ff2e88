"""What is submitted for the parts of a command, without a SLURM; `test_study_on_slurm` has a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.job_arrays import JobResources, Site
from launch.local import visible_gpus
from launch.parts import Parts, run_parts, submit_parts
from olmo_inject.errors import UserError
from olmo_inject.utils.cores import available_cores

SITE = Site(sbatch=["--account=abc"], setup=["module load cuda"], job=JobResources(cpus=3, time="02:00:00"))


def parts(folder: Path, wants_gpu: bool = True) -> Parts:
    return Parts(["analyze", "das"], ["--steps", "all", "--", "a run"], folder / "jobs of das", 8, [0, 3, 7], wants_gpu)


def test_the_script_asks_for_what_a_part_needs(tmp_path: Path, queue: Path) -> None:
    said = submit_parts(parts(tmp_path), SITE)
    logs = tmp_path / "jobs of das" / "logs"
    commands = "`squeue --jobs=17` shows them, `scancel 17` cancels them"
    assert said == f"job array 17: 3 of 8 parts, logs in {logs}; {commands}"
    script = (tmp_path / "jobs of das" / "0.sbatch").read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for option in (
        "--array=0,3,7",
        "--cpus-per-task=3",
        "--gpus-per-node=1",
        "--time=02:00:00",
        "--requeue",
        "--account=abc",
    ):
        assert f"\n#SBATCH {option}\n" in script, option
    assert "\nmodule load cuda\n" in script
    assert script.rstrip().endswith("""analyze das --part "$SLURM_ARRAY_TASK_ID/8" --steps all -- 'a run'""")
    submit_parts(parts(tmp_path, wants_gpu=False), SITE)
    assert "gpu" not in (tmp_path / "jobs of das" / "1.sbatch").read_text()


def test_what_is_queued_is_not_submitted_again(tmp_path: Path, queue: Path) -> None:
    submit_parts(parts(tmp_path), SITE)
    script = (tmp_path / "jobs of das" / "0.sbatch").resolve()
    queue.write_text(f"17 0 RUNNING {script}\n17 3 PENDING {script}\n18 7 RUNNING /another/0.sbatch\n")
    assert submit_parts(parts(tmp_path), SITE).startswith("job array 17: 1 of 8 parts, 2 parts running or queued")
    assert "--array=7\n" in script.with_name("1.sbatch").read_text()
    queue.write_text(queue.read_text() + f"19 7 PENDING {script.with_name('1.sbatch')}\n")
    assert submit_parts(parts(tmp_path), SITE) == (
        "nothing to submit, 3 parts running or queued; `squeue --jobs=17,19` shows them, `scancel 17 19` cancels them"
    )
    with pytest.raises(UserError, match=r"^job array 17 still does the same in 8 parts, not 4: "):
        submit_parts(Parts(["analyze", "das"], [], tmp_path / "jobs of das", 4, [1], True), SITE)


def test_what_slurm_refuses_leaves_no_script(tmp_path: Path, queue: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid account' >&2\nexit 1\n")
    with pytest.raises(UserError, match="^sbatch failed: sbatch: error: invalid account$"):
        submit_parts(parts(tmp_path), SITE)
    assert not list((tmp_path / "jobs of das").glob("*.sbatch"))


@pytest.mark.parametrize(("written", "given"), [("4,2", "4,2"), (None, str(available_cores()))])
def test_threads_are_those_that_the_user_set_or_a_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, given: str
) -> None:
    """OpenMP takes a list too, a number for each level of nested regions."""
    if written is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", written)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS threads"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    run_parts(Parts(["audit"], [], tmp_path / "jobs", 1, [0], False), 1)
    assert (tmp_path / "jobs" / "logs" / "part-0.log").read_text().endswith(f"\n{given} threads\n")


@pytest.mark.parametrize(
    ("named", "count", "visible"),
    [
        (None, 2, ["0", "1"]),
        ("-1", 0, []),
        ("", 0, []),
        ("3, GPU-8932f937", 2, ["3", "GPU-8932f937"]),
        ("3,-1,2", 1, ["3"]),
    ],
)
def test_gpus_are_those_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, visible: list[str]
) -> None:
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)  # which follows CUDA's rules
    assert visible_gpus() == visible


@pytest.mark.slow
def test_a_part_that_fails_here_is_named(tmp_path: Path) -> None:
    failing = Parts(["audit"], ["--", str(tmp_path / "nowhere")], tmp_path / "jobs", 1, [0], False)
    with pytest.raises(
        UserError, match=r"^1 of 1 parts failed, part 0 of 1: .*nowhere does not exist; the same command"
    ):
        run_parts(failing, 1)
