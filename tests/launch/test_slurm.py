"""What SLURM is given, without a SLURM; `test_sweep_on_slurm` has a real one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps import small_sweep, write_sweep

from launch import cells, slurm
from launch.job_arrays import Site, load_site, most_elements
from launch.slurm import render
from launch.sweep import Resources, load_sweep
from olmo_inject.cli import main
from olmo_inject.errors import UserError


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def is_bash(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_script_asks_for_what_the_cells_need(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path)
    needs = Resources(nodes=4, gpus_per_node=8, cpus_per_process=6, time="2-12:00:00")
    site = Site(["--account=abc"], ["module load cuda"], "apptainer exec --nv my.sif", "/opt/python", 300)
    script = render(sweep, needs, 40, tmp_path / "0.cells", site)
    assert is_bash(script)
    asked = directives(script)
    for option in (
        *("--job-name=small", "--array=0-39%8", "--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=48"),
        *("--gpus-per-node=8", "--time=2-12:00:00", "--requeue", "--signal=B:USR1@300", "--account=abc"),
    ):
        assert option in asked, option
    assert f"--output={sweep.folder}/logs/slurm-%A_%a.log" in asked
    assert "\nmodule load cuda\n" in script
    assert "apptainer exec --nv my.sif /opt/python -m olmo_inject" in script
    assert "--device cuda --processes 8 " in script
    assert "--nodes 4 --rendezvous" in script
    assert script.index("preflight") < script.index(" train ")


def test_a_cell_on_cores_of_one_node_asks_for_no_gpu_and_meets_nobody(tmp_path: Path) -> None:
    needs = Resources(gpus_per_node=0, processes_per_node=2, time="01:00:00")
    script = render(small_sweep(tmp_path), needs, 2, tmp_path / "0.cells", Site())
    assert is_bash(script)
    assert "gpu" not in script
    assert "rendezvous" not in script
    assert "--array=0-1%2" in directives(script)
    assert "--device cpu --processes 2" in script


def test_folders_with_spaces_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    sweep = small_sweep(folder)
    script = render(sweep, sweep.cells[0].resources, 2, folder / "0.cells", Site())
    assert is_bash(script)
    assert f"\nfolder='{sweep.folder}'\n" in script
    assert f"--output='{sweep.folder}/logs/slurm-%A_%a.log'" in directives(script)


def test_a_template_of_the_site_s_own(tmp_path: Path) -> None:
    sweep, template = small_sweep(tmp_path), tmp_path / "own.sbatch"
    template.write_text("#!/bin/bash\n#SBATCH --array=0-{{ last }}\n")
    site = Site(template=str(template))
    assert directives(render(sweep, sweep.cells[0].resources, 2, tmp_path / "0.cells", site)) == ["--array=0-1"]
    for text, said in (("{{ lst }}", "'lst' is undefined"), ("{% if %}", "own.sbatch")):
        template.write_text(text)
        with pytest.raises(UserError, match=said):
            render(sweep, sweep.cells[0].resources, 2, tmp_path / "0.cells", site)
    with pytest.raises(UserError, match="cannot be read"):
        render(sweep, sweep.cells[0].resources, 2, tmp_path, Site(template=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("limit", "signal", "fits"), [("00:03:00", 119, True), ("00:03:00", 120, False), ("1-00:00:00", 86000, True)]
)
def test_a_limit_must_leave_time_to_train(tmp_path: Path, limit: str, signal: int, fits: bool) -> None:
    sweep, needs = small_sweep(tmp_path), Resources(gpus_per_node=0, time=limit)
    if fits:
        render(sweep, needs, 2, tmp_path / "0.cells", Site(signal_seconds=signal))
    else:
        with pytest.raises(UserError, match="leaves no time to train"):
            render(sweep, needs, 2, tmp_path / "0.cells", Site(signal_seconds=signal))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sbach: []", "sbach"),
        ("signal_seconds: 0", "at least 1"),
        ("signal_seconds: soon", "signal_seconds"),
        ("job: {cpus: 0}", "cpus must be at least 1"),
        ("job: {gpus: 2}", "gpus 0 or 1"),
        ("job: {time: soon}", "job.time: 'soon' is not"),
        ("sbatch: [", "YAML"),
        ("sbatch: --account=abc", "sbatch: must be a list"),
    ],
)
def test_a_site_file_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_site(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_site(tmp_path / "none.yaml")


def test_where_there_is_no_slurm_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not installed here"):
        slurm.submit(sweep, sweep.cells, Site())
    assert slurm.active(sweep) == {}


def test_what_slurm_refuses_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No controller answers, as where a laptop has SLURM's commands and no cluster."""
    sweep = load_sweep(file := write_sweep(tmp_path))
    for command in ("sbatch", "squeue"):
        said = f"#!/bin/sh\necho trying >&2\necho '{command}: error: Unable to contact slurm controller' >&2\nexit 1\n"
        (tmp_path / command).write_text(said)
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="^sbatch failed: sbatch: error: Unable to contact slurm controller$"):
        slurm.submit(sweep, sweep.cells, Site())
    assert not [path for path in sweep.folder.rglob("*") if path.is_file()]
    assert slurm.active(sweep) == {}  # so squeue is not even asked
    assert slurm.cancel(sweep) is None
    # A cell that failed has still failed: the next submission leaves it out too.
    cells.begin(sweep, sweep.cells[0], {"backend": "slurm", "array": 0})
    cells.files(sweep, sweep.cells[0]).exit_status.write_text("1\n")
    before = {path: path.read_bytes() for path in sweep.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="^sbatch failed"):
        slurm.submit(sweep, sweep.cells, Site())
    assert {path: path.read_bytes() for path in sweep.folder.rglob("*") if path.is_file()} == before
    assert [status.state for status in cells.statuses(sweep, {})] == ["failed", "pending"]
    # Where something was submitted before, its state cannot be told, but the rest can.
    (sweep.folder / "arrays" / "0.sbatch").touch()
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "status", str(file)])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "2 cells: 1 failed, 1 pending" in shown.out
    assert "SLURM did not answer" in shown.err
    assert "squeue failed" in shown.err


def test_an_attempt_that_starts_removes_the_last_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and not if it is cancelled."""
    sweep = small_sweep(tmp_path)
    cells.begin(sweep, sweep.cells[0], {"backend": "slurm", "array": 0})
    files, listing = cells.files(sweep, sweep.cells[0]), tmp_path / "0.cells"
    listing.write_text(f"{files.name}\n")
    (tmp_path / "srun").write_text(f"#!/bin/sh\ntest ! -e '{files.exit_status}'\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in (("ARRAY_JOB_ID", "17"), ("ARRAY_TASK_ID", "0"), ("JOB_ID", "17"), ("JOB_NODELIST", "n1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    script = render(sweep, sweep.cells[0].resources, 1, listing, Site())
    files.exit_status.write_text("3\n")
    files.cancel.touch()
    for status in ("3\n", "0\n"):
        assert subprocess.run(["bash", "-c", script], check=False).returncode == 0
        assert files.exit_status.read_text() == status
        files.cancel.unlink(missing_ok=True)


def test_more_cells_than_an_array_holds_share_their_number_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster says how many it holds. If it refuses the second array, the first is submitted."""
    sweep = small_sweep(tmp_path, "at_once: 5")
    sweep = replace(sweep, cells=[replace(sweep.cells[0], name=f"c{number}") for number in range(7)])
    first = tmp_path / "first"
    sbatch = f"if [ -e '{first}' ]; then echo 'error: no more' >&2; exit 1; fi; touch '{first}'; echo 17"
    for name, body in (("scontrol", "echo 'MaxArraySize            = 3'"), ("sbatch", sbatch), ("squeue", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    arrays = ["--array=0-2%1", "--array=0-2%1", "--array=0-0%1"]
    assert [directives(script)[1] for script in slurm.scripts(sweep, sweep.cells, Site())] == arrays
    assert slurm.arrays(sweep, sweep.cells[:6])[1].cells == sweep.cells[3:6]
    assert directives(slurm.scripts(sweep, sweep.cells[:6], Site())[1])[1] == "--array=0-2%2"
    with pytest.raises(
        UserError, match=r"^sbatch failed: error: no more; submitted before: job array 17: 3 cells, scr"
    ):
        slurm.submit(sweep, sweep.cells, Site())
    assert [path.name for path in sorted((sweep.folder / "arrays").iterdir())] == ["0.cells", "0.sbatch"]
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert most_elements() == 1001


def test_the_scripts_can_be_seen_before_anything_is_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("sbatch: [--account=abc]")
    file = write_sweep(tmp_path)
    with pytest.raises(SystemExit):
        main(["sweep", "show", str(file), "--site", str(site)])
    out = capsys.readouterr().out
    assert all(cell.name in out for cell in load_sweep(file).cells)
    assert "#SBATCH --account=abc" in out
    assert "#SBATCH --array=0-1%2" in out
    with pytest.raises(SystemExit):
        main(["sweep", "show", str(file), "rate-2", "--site", str(site)])
    out = capsys.readouterr().out
    assert "instances_per_batch: 2" in out
    assert "#SBATCH --array=0-0%1" in out
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "show", str(file), "rate-3"])
    assert ended.value.code == 2
    assert "'rate-3' is not a cell of sweep small" in capsys.readouterr().err
    assert not load_sweep(file).folder.exists()
