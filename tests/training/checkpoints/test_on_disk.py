"""Which checkpoints a run has; pruning and replacing them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import alone, build, tiny_config
from saved import STATE, saved_steps

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints import save_restore
from olmo_inject.training.checkpoints.on_disk import Checkpoint, checkpoints_of, latest, prune
from olmo_inject.training.checkpoints.weights import load_weights

pytestmark = pytest.mark.slow


def test_finding_and_pruning(tmp_path: Path) -> None:
    saved_steps(tmp_path, full=[0, 4, 10], weights=[2, 9, 12])
    (tmp_path / "step7").mkdir()  # none of ours
    (tmp_path / "step8-unsharded").mkdir()
    assert [checkpoint.step for checkpoint in checkpoints_of(tmp_path)] == [0, 2, 4, 9, 10, 12]
    newest_full = latest(tmp_path)
    assert newest_full is not None
    assert newest_full.step == 10
    prune(tmp_path, keep=2)
    assert [checkpoint.step for checkpoint in checkpoints_of(tmp_path)] == [2, 4, 9, 10, 12]
    prune(tmp_path, keep=1, listed=[4])  # it stays, and does not count
    assert [checkpoint.step for checkpoint in checkpoints_of(tmp_path)] == [2, 4, 9, 10, 12]
    prune(tmp_path, keep=0)  # the newest full one stays
    assert [checkpoint.step for checkpoint in checkpoints_of(tmp_path)] == [2, 9, 10, 12]
    assert not list(tmp_path.glob(".*"))
    assert checkpoints_of(tmp_path / "nowhere") == []
    assert latest(tmp_path / "nowhere") is None


def test_a_crash_while_removing_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_steps(tmp_path, full=[0, 4], weights=[])
    with monkeypatch.context() as crash:
        crash.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, keep=1)
    assert [checkpoint.step for checkpoint in checkpoints_of(tmp_path)] == [4]
    (tmp_path / ".step9.tmp" / "model").mkdir(parents=True)
    saved_steps(tmp_path, full=[8], weights=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step4", "step8"]


def test_a_step_is_replaced_only_when_asked(tmp_path: Path) -> None:
    saved_steps(tmp_path, full=[3], weights=[])
    before = load_weights(tmp_path / "step3")
    before = {name: value.clone() for name, value in before.items()}
    with alone():
        model, optim = build(tiny_config(seed=8))
        with pytest.raises(UserError, match="step3 exists already"):
            save_restore.save(tmp_path, 3, model, optim, STATE, tiny_config())
        assert all(torch.equal(value, before[name]) for name, value in load_weights(tmp_path / "step3").items())
        save_restore.save(tmp_path, 3, model, optim, STATE, tiny_config(), weights_only=True, overwrite=True)
    assert checkpoints_of(tmp_path) == [Checkpoint(tmp_path / "step3", 3, True, False)]
    assert not any(torch.equal(value, before[name]) for name, value in load_weights(tmp_path / "step3").items())
    assert [path.name for path in tmp_path.iterdir()] == ["step3"]
