"""Damage and malice. Every rank must answer: a hang fails the test."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved import Malicious, reseal, restore_error

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.on_disk import read_checkpoint

pytestmark = pytest.mark.slow


DAMAGED = {
    "ddp": ["model.pt", "optim.pt", "train.pt", "train/rank1.pt", "config.yaml"],
    "fsdp": [
        "model/rank_1.safetensors",
        "model/metadata.json",
        "optim/rank_0.safetensors",
        "optim/groups.json",
        "train/rank0.pt",
    ],
}


@pytest.mark.parametrize(("strategy", "name"), [(kind, name) for kind in DAMAGED for name in DAMAGED[kind]])
def test_damage_is_named_on_every_rank(ranks, copy, strategy: str, name: str) -> None:
    folder = copy(strategy)
    content = (folder / name).read_bytes()
    broken = {
        "is not as long as it was written": content[:-1],
        "is not as it was written": bytes([content[0] ^ 1]) + content[1:],
        "is missing": None,
    }
    for message, changed in broken.items():
        if changed is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(changed)
        assert ranks.run(2, restore_error, folder, strategy) == [f"{folder} is damaged: {name} {message}"] * 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "is not a JSON file"),
        ("[]", "has format None; this version reads checkpoints of format 1"),
        ('{"format": 2}', "has format 2; this version reads checkpoints of format 1"),
        ('{"format": 1, "step": 3}', "is damaged: kind is missing"),
        (None, "is not a checkpoint of this project"),
    ],
)
def test_a_foreign_record_is_refused(ranks, copy, record: str | None, message: str) -> None:
    folder = copy("ddp")
    if record is None:
        (folder / "checkpoint.json").unlink()
    else:
        (folder / "checkpoint.json").write_text(record)
    answers = ranks.run(2, restore_error, folder, "ddp")
    assert answers[0] == answers[1]
    assert message in answers[0]
    with pytest.raises(UserError, match=message):
        read_checkpoint(folder)


def test_weights_only_cannot_be_resumed(ranks, runs) -> None:
    folder = runs["fsdp"][0] / "weights" / "step3"
    assert "holds weights only" in ranks.run(2, restore_error, folder, "fsdp")[1]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, "it lacks transformer.blocks.2.att_proj.weight (4 in all)"),
        ({"n_layers": 1}, "which has no transformer.blocks.1.att_proj.weight (4 in all)"),
        ({"mlp_ratio": 4}, "transformer.blocks.0.ff_out.weight is (16, 64), the model's is (16, 32)"),
    ],
)
def test_another_model_is_refused(ranks, runs, strategy: str, changes: dict, message: str) -> None:
    answers = ranks.run(2, restore_error, runs[strategy][0] / "step3", strategy, changes)
    assert answers[0] == answers[1]
    assert message in answers[0]


@pytest.mark.parametrize("name", ["model.pt", "optim.pt", "train.pt"])
def test_an_unsharded_checkpoint_cannot_run_code(ranks, copy, tmp_path: Path, name: str) -> None:
    folder = copy("ddp")
    value = {"x": Malicious(tmp_path / "ran")}
    for content in (lambda path: torch.save(value, path), lambda path: path.write_bytes(pickle.dumps(value))):
        content(folder / name)
        reseal(folder, name)
        answers = ranks.run(2, restore_error, folder, "ddp")
        assert answers[0].endswith(f"{name} is damaged, or holds more than tensors and plain values")
        assert not (tmp_path / "ran").exists()


def test_a_sharded_checkpoint_cannot_run_code(ranks, copy, tmp_path: Path) -> None:
    folder = copy("fsdp")
    (folder / "optim" / "groups.json").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    reseal(folder, "optim/groups.json")
    assert "is not text" in ranks.run(2, restore_error, folder, "fsdp")[1]
    (folder / "model" / "metadata.json").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    reseal(folder, "model/metadata.json")
    assert "is damaged or foreign" in ranks.run(2, restore_error, folder, "fsdp")[0]
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_ai2_olmo_core_itself_cannot_run_code(ranks, copy, tmp_path: Path) -> None:
    """Its param groups are pickles inside a safetensors file: those tensors are never asked for."""
    folder = copy("fsdp")
    pickled = torch.frombuffer(bytearray(pickle.dumps(Malicious(tmp_path / "ran"))), dtype=torch.uint8)
    tensors = load_file(folder / "optim" / "rank_0.safetensors") | {"param_group0": pickled}
    save_file(tensors, folder / "optim" / "rank_0.safetensors")
    metadata = json.loads((folder / "optim" / "metadata.json").read_text())
    metadata["tensors"]["param_group0"] = {
        "shape": [len(pickled)],
        "is_sharded": False,
        "dtype": "U8",
        "shard_spec_per_file": {"rank_0.safetensors": {"flattened_offsets": [[0, len(pickled)]]}},
    }
    (folder / "optim" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "optim" / "groups.json").unlink()
    reseal(folder, "optim/rank_0.safetensors", "optim/metadata.json")
    record = json.loads((folder / "checkpoint.json").read_text())
    del record["files"]["optim/groups.json"]
    (folder / "checkpoint.json").write_text(json.dumps(record))
    assert "groups.json does not exist" in ranks.run(2, restore_error, folder, "fsdp")[0]
    assert not (tmp_path / "ran").exists()
