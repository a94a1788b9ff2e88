"""A run that starts from a checkpoint named as on the Hugging Face hub: from its cache, or one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from olmo.model import OLMo
from ranks import alone
from runs import metrics, train_on_rank, write_experiment

from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.hub import is_hub_name, local_folder
from olmo_inject.training.checkpoints.transformers import to_transformers
from olmo_inject.training.olmo_config import model_config

NAME = "allenai/OLMo-2-tiny@stage1-step10"
OLMO2 = (
    *("model.layer_norm_type=rms", "model.layer_norm_with_affine=true", "model.norm_after=true"),
    *("model.attention_layer_norm=true", "model.layer_norm_eps=1e-6"),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, model: Path, revision: str) -> None:
    """Lay a model into the cache as a download does: files of a commit, and what the revision's name stands for."""
    commit, repository = "0123456789abcdef" * 2 + "01234567", cache / "models--allenai--OLMo-2-tiny"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(commit)


@pytest.mark.slow
def test_a_run_starts_from_a_name_as_from_the_folder(cache: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    config = model_config(load_experiment(path, OLMO2).model).update_with(init_device="cpu")
    torch.manual_seed(7)
    to_transformers(OLMo(config).state_dict(), config).save_pretrained(tmp_path / "model")
    put(cache, tmp_path / "model", "stage1-step10")
    with alone():
        for name, start in (("named", NAME), ("folder", str(tmp_path / "model")), ("random", "null")):
            answer = train_on_rank(
                path, f"folder={tmp_path / name}", f"start_from={start}", "train.max_duration=1", *OLMO2
            )
            assert "trained to step 1" in answer
        refused = train_on_rank(path, f"folder={tmp_path / 'other'}", f"start_from={NAME}", "train.max_duration=1")
    assert metrics(tmp_path / "named") == metrics(tmp_path / "folder") != metrics(tmp_path / "random")
    assert refused.startswith("UserError: ")
    assert "has model_type olmo2; the experiment's `model` has olmo" in refused
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_had_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"start_from: {NAME} cannot be had from the Hugging Face hub: ") as offline:
        local_folder(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(UserError, match=f"start_from: {NAME} cannot be had") as unreachable:
        local_folder(NAME)
    assert not any("\n" in str(error.value) for error in (offline, unreachable))


def test_folders_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("runs/clean@step10")
    Path("runs/clean@step10").mkdir(parents=True)
    for text in ("runs/clean@step10", "runs/clean", "/runs/clean@step10", "a/b/c@d", "clean@step10"):
        assert not is_hub_name(text)
        assert local_folder(text) == Path(text)
