from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import differing
from saved import (
    from_step_zero,
    resumed,
    save_error,
    save_padded,
    saved_steps,
    settings_restored,
    straight,
)

from olmo_inject.training.checkpoints import save_restore
from olmo_inject.training.checkpoints.on_disk import checkpoints_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_resumed_run_is_bit_identical(ranks, tmp_path: Path, strategy: str, world: int) -> None:
    middle, end = ranks.run(world, straight, tmp_path, strategy)[0]
    answers = ranks.run(world, resumed, tmp_path, strategy)
    assert len(middle) == 30  # parameters and both moments
    assert differing(answers[0][0], middle) == []
    assert differing(answers[0][1], end) == []
    assert differing({name: middle[name] for name in end}, end) == sorted(end, key=list(end).index)
    assert [rank for *_, rank in answers] == list(range(world))  # each rank got its own trainer state


@pytest.mark.parametrize("schedule", ["lionw", "adaptive"])
def test_other_optimizers_resume_too(ranks, tmp_path: Path, schedule: str) -> None:
    _, end = ranks.run(2, straight, tmp_path, "ddp", schedule)[0]
    assert differing(ranks.run(2, resumed, tmp_path, "ddp", schedule)[0][1], end) == []


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("saved_by", ["ddp", "fsdp"])
def test_any_strategy_and_number_of_ranks_can_go_on(ranks, runs, saved_by: str, strategy: str, world: int) -> None:
    folder, middle, end = runs[saved_by]
    answers = ranks.run(world, resumed, folder, strategy)
    assert differing(answers[0][0], middle) == []
    for name, expected in end.items():
        np.testing.assert_allclose(answers[0][1][name], expected, rtol=0, atol=1e-6, err_msg=name)
    assert [rank for *_, rank in answers] == (list(range(2)) if world == 2 else [0] * world)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_saving_before_the_first_step_changes_nothing(ranks, tmp_path: Path, strategy: str) -> None:
    assert ranks.run(2, from_step_zero, tmp_path, strategy)[0] == [[], []]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_optimizers_settings_are_restored(ranks, tmp_path: Path, strategy: str) -> None:
    first, second = ranks.run(2, settings_restored, tmp_path, strategy)[0]
    assert (first["lr"], first["betas"], first["max_grad_norm"]) == (0.123, (0.5, 0.75), None)
    assert (second["lr"], second["betas"], second["max_grad_norm"]) == (0.01, (0.9, 0.95), 1.0)
    assert first["sharded"] == (strategy == "fsdp")


def test_a_killed_save_leaves_no_step(tmp_path: Path) -> None:
    """A process that dies in the middle of writing, as by SIGKILL."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from ranks import alone, build, tiny_config\n"
        "from olmo_inject.training.checkpoints import save_restore\n"
        "save_restore.write_record = lambda *_: os._exit(9)\n"
        "with alone():\n"
        "    model, optim = build(tiny_config())\n"
        "    save_restore.save(Path(sys.argv[1]), 3, model, optim, {}, tiny_config())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": str(Path(save_restore.__file__).parents[3])}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == [".step3.tmp"]
    assert checkpoints_of(tmp_path) == []
    saved_steps(tmp_path, full=[3], weights=[])
    assert [path.name for path in tmp_path.iterdir()] == ["step3"]


# Full disks.


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of two megabytes."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"NO TEST OF A FULL DISK: mounting one is not permitted ({mounted.stderr.decode().strip()})")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("padding", [0, 1_000_000])
def test_a_full_disk_is_a_user_error_and_leaves_nothing(ranks, small_disk: Path, strategy: str, padding: int) -> None:
    if padding == 0:  # the disk is full for all from the start
        (small_disk / "ballast").write_bytes(bytes(2 * 1024 * 1024 - 8192))
    answers = ranks.run(2, save_padded, small_disk, strategy, padding)
    assert answers[0] == answers[1]
    assert answers[0].startswith(f"cannot write {small_disk}/step3: ")
    assert "No space left on device" in answers[0]
    assert [path.name for path in small_disk.iterdir() if path.name != "ballast"] == []


def test_a_disk_that_fills_anywhere_in_a_file_is_told(small_disk: Path) -> None:
    value, page = {"weights": torch.zeros(10_000), "step": 3}, 4096
    for free in range(1, 10):
        (small_disk / "ballast").write_bytes(bytes(2 * 1024 * 1024 - free * page))
        with pytest.raises(OSError, match="No space left on device"):
            save_restore._save_torch(small_disk / "train.pt", value)
        (small_disk / "train.pt").unlink()


def test_a_folder_that_cannot_be_made_is_a_user_error(ranks, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert len(set(ranks.run(2, save_error, tmp_path / "run", "ddp"))) == 1
