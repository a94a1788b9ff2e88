"""Whole weights from every kind of checkpoint, and from elsewhere."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from olmo.checkpoint import FullCheckpointer
from olmo.config import TrainConfig
from olmo.model import OLMo
from ranks import alone, build, differing, numbers, tiny_config
from safetensors.torch import load_file, save_file
from saved import Malicious, assigned

from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.on_disk import Checkpoint, read_checkpoint
from olmo_inject.training.checkpoints.weights import load_weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_weights_are_the_same_from_every_kind_of_checkpoint(ranks, runs, strategy: str) -> None:
    folder, middle, _ = runs[strategy]
    expected = {name: value for name, value in middle.items() if not name.startswith("state.")}
    for path in (folder / "step3", folder / "weights" / "step3"):
        weights = load_weights(path, tiny_config().model)
        assert differing({name: value.numpy() for name, value in weights.items()}, expected) == []
    assert read_checkpoint(folder / "weights" / "step3") == Checkpoint(folder / "weights" / "step3", 3, True, False)
    assert list(load_file(folder / "weights" / "step3" / "model.safetensors")) == sorted(expected)
    for world, into in [(2, "ddp"), (3, "fsdp")]:
        assert differing(ranks.run(world, assigned, folder / "step3", into)[0], expected) == []


@pytest.mark.filterwarnings("ignore:register_new_resolver:UserWarning")  # ai2-olmo's way with omegaconf 2.4
def test_ai2_olmo_reads_our_unsharded_checkpoint(runs) -> None:
    folder, middle, _ = runs["ddp"]
    model = OLMo.from_checkpoint(folder / "step3")
    assert differing({name: value.numpy() for name, value in model.state_dict().items()}, {
        name: value for name, value in middle.items() if not name.startswith("state.")
    }) == []  # fmt: skip
    with alone():
        ours, optim = build(tiny_config(seed=99))
        state = FullCheckpointer(tiny_config()).restore_checkpoint(folder / "step3", ours, optim)
        assert differing(numbers(ours, optim), middle) == []
    assert state["global_step"] == 3
    assert TrainConfig.load(folder / "step3" / "config.yaml").model == tiny_config().model


def test_ai2_olmo_reads_the_model_of_our_sharded_checkpoint(runs) -> None:
    from olmo_core.distributed.checkpoint import load_model_and_optim_state

    folder, middle, _ = runs["fsdp"]
    model = OLMo(tiny_config(seed=99).model)
    load_model_and_optim_state(folder / "step3", model)
    assert all(np.array_equal(value.numpy(), middle[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("strategy", "name"), [("ddp", "model.pt"), ("fsdp", "model/rank_0.safetensors")])
def test_damaged_weights_are_not_loaded(copy, strategy: str, name: str) -> None:
    folder = copy(strategy)
    content = bytearray((folder / name).read_bytes())
    content[-3000] ^= 1  # in the middle of a tensor, where no format would notice
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"is damaged: {name} is not as it was written"):
        load_weights(folder)


def test_safetensors_with_pickled_names_run_no_code(tmp_path: Path) -> None:
    """ai2-olmo's own reader unpickles the names of the tensors."""
    name = base64.urlsafe_b64encode(pickle.dumps(Malicious(tmp_path / "ran"))).decode("ascii")
    save_file({name: torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is not an OLMo model: it holds a tensor named"):
        load_weights(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    torch.save({"transformer.wte.weight": Malicious(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        load_weights(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_of_ai2_olmo_with_older_names(tmp_path: Path) -> None:
    model = OLMo(tiny_config().model.update_with(init_device="cpu"))
    wrapped = {f"_fsdp_wrapped_module.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrapped, tmp_path / "model.pt")
    grouped = tiny_config().model.update_with(block_group_size=2)
    assert sorted(load_weights(tmp_path, grouped)) == sorted(OLMo(grouped).state_dict())
    weights = load_weights(tmp_path, tiny_config().model)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("tied", "shard_size"), [(False, "5GB"), (True, "5GB"), (False, "8KB")])
def test_weights_of_transformers(tmp_path: Path, tied: bool, shard_size: str) -> None:
    from transformers import OlmoConfig, OlmoForCausalLM

    theirs = OlmoForCausalLM(
        OlmoConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=tied,
            pad_token_id=1,
            eos_token_id=0,
            bos_token_id=None,
        )
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "8KB")
    config = tiny_config().model.update_with(init_device="cpu", weight_tying=tied)
    ours = OLMo(config).eval()
    ours.load_state_dict(load_weights(tmp_path, config))
    tokens = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits)


def test_weights_that_cannot_be_had_are_refused(tmp_path: Path, runs) -> None:
    path = runs["ddp"][0] / "step3"
    for changes, message in [
        ({"n_layers": 3}, "it lacks transformer.blocks.2.att_proj.weight"),
        ({"d_model": 32}, r"transformer\.blocks\.0\.att_proj\.weight is \(48, 16\)|wte.weight is \(64, 16\)"),
    ]:
        with pytest.raises(UserError, match=message):
            load_weights(path, tiny_config().model.update_with(**changes))
    with pytest.raises(UserError, match="holds no weights"):
        load_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UserError, match="type 'qwen3'; ai2-olmo can be llama, olmo or olmo2"):
        load_weights(tmp_path)
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(UserError, match="something other than a model's weights"):
        load_weights(tmp_path)
