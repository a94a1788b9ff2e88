from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from olmo.checkpoint import FullCheckpointer
from olmo.config import TrainConfig
from olmo.model import OLMo
from ranks import alone, build, differing, numbers, tiny_config, train
from safetensors.torch import load_file, save_file

from olmo_inject.errors import UserError
from olmo_inject.training import compat
from olmo_inject.training.checkpoints import save_restore
from olmo_inject.training.checkpoints.on_disk import Checkpoint, find_checkpoints, latest, prune, read_checkpoint
from olmo_inject.training.checkpoints.weights import assign_weights, load_weights

pytestmark = pytest.mark.slow

STATE = {"global_step": 3, "checkpoints": []}


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


# Jobs, run on every rank.


def straight(folder: Path, strategy: str, schedule: str = "adamw") -> tuple[dict, dict]:
    """Three steps, a full and a weights-only checkpoint, three more; the numbers at both ends."""
    config = job_config(strategy, schedule)
    model, optim = build(config)
    train(model, optim, 0, 3)
    state = {**STATE, "rank": dist.get_rank(), "rng": compat.rng_state()}
    saved = save_restore.save(folder, 3, model, optim, state, config)
    assert saved == read_checkpoint(folder / "step3")
    save_restore.save(folder / "weights", 3, model, optim, state, config, weights_only=True)
    middle = numbers(model, optim if schedule == "adamw" else None)
    train(model, optim, 3, 6)
    return middle, numbers(model)


def resumed(folder: Path, strategy: str, schedule: str = "adamw") -> tuple[dict, dict, int]:
    """The same from the checkpoint, in a model that began elsewhere."""
    config = job_config(strategy, schedule, seed=99)
    model, optim = build(config)
    checkpoint = latest(folder)
    assert checkpoint is not None
    state = save_restore.restore(checkpoint, model, optim)
    assert state["global_step"] == 3
    middle = numbers(model, optim if schedule == "adamw" else None)
    train(model, optim, 3, 6)
    return middle, numbers(model), state["rank"]


def job_config(strategy: str, schedule: str, **changes: Any) -> TrainConfig:
    config = tiny_config(strategy, **changes)
    if schedule == "lionw":
        config.optimizer.name = "lionw"  # type: ignore[assignment]
    if schedule == "adaptive":  # clipping that keeps averages in the optimizer's state
        config.max_grad_norm_ratio, config.max_grad_norm = 1.05, None
    return config


def from_step_zero(folder: Path, strategy: str) -> list[str]:
    """A run that saves before its first step, one that does not, and one resumed from there."""
    ends = []
    for saves, restores in [(False, False), (True, False), (False, True)]:
        model, optim = build(tiny_config(strategy, seed=9 if restores else 7))
        if saves:
            save_restore.save(folder, 0, model, optim, STATE, tiny_config(strategy))
        if restores:
            save_restore.restore(read_checkpoint(folder / "step0"), model, optim)
        train(model, optim, 0, 3)
        ends.append(numbers(model))
    return [differing(ends[0], other) for other in ends[1:]] if dist.get_rank() == 0 else []


def settings_restored(folder: Path, strategy: str) -> list[dict]:
    """The first param group, changed in training, saved and restored into a fresh optimizer."""
    model, optim = build(tiny_config(strategy))
    optim.param_groups[0] |= {"lr": 0.123, "betas": (0.5, 0.75), "max_grad_norm": None}
    save_restore.save(folder, 3, model, optim, STATE, tiny_config(strategy))
    model, optim = build(tiny_config(strategy))
    save_restore.restore(read_checkpoint(folder / "step3"), model, optim)
    return [{k: v for k, v in group.items() if k != "params"} for group in optim.param_groups]


def restore_error(folder: Path, strategy: str, changes: dict | None = None) -> str:
    """What restoring says; every rank answers, so none hangs."""
    config = tiny_config(strategy)
    for key, value in (changes or {}).items():
        setattr(config.model, key, value)
    model, optim = build(config)
    with pytest.raises(UserError) as caught:
        save_restore.restore(Checkpoint(folder, 3, False, strategy == "fsdp"), model, optim)
    return str(caught.value)


def save_error(folder: Path, strategy: str, state: dict | None = None) -> str:
    """What saving says."""
    config = tiny_config(strategy)
    model, optim = build(config)
    with pytest.raises(UserError) as caught:
        save_restore.save(folder, 3, model, optim, state or STATE, config)
    return str(caught.value)


def save_padded(folder: Path, strategy: str, padding: int) -> str:
    """Save with a large state on the last rank, which fills the disk for it alone."""
    large = dist.get_rank() == dist.get_world_size() - 1
    return save_error(folder, strategy, {**STATE, "padding": torch.zeros(padding if large else 1)})


def assigned(folder: Path, strategy: str) -> dict[str, np.ndarray]:
    """A wrapped model filled from whole weights."""
    config = tiny_config(strategy, seed=99)
    model, _ = build(config)
    assign_weights(model, load_weights(folder, config.model))
    return numbers(model)


# A run of each kind, saved at 2 ranks, for the tests that only read.


@pytest.fixture(scope="module")
def runs(ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict, dict]]:
    made = {}
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(strategy)
        made[strategy] = (folder, *ranks.run(2, straight, folder, strategy)[0])
    return made


@pytest.fixture
def copy(runs, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the full checkpoint of a strategy, to damage."""

    def make(strategy: str) -> Path:
        subprocess.run(["cp", "-r", runs[strategy][0] / "step3", tmp_path / "step3"], check=True)
        return tmp_path / "step3"

    return make


def reseal(folder: Path, *names: str) -> None:
    """Write the record as whoever made these files would have."""
    record = json.loads((folder / "checkpoint.json").read_text())
    for name in names:
        content = (folder / name).read_bytes()
        record["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "checkpoint.json").write_text(json.dumps(record))


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


# Listing, pruning, replacing.


def saved_steps(folder: Path, full: list[int], weights: list[int]) -> None:
    with alone():
        config = tiny_config()
        model, optim = build(config)
        for step in sorted(full + weights):
            save_restore.save(folder, step, model, optim, STATE, config, weights_only=step in weights)


def test_finding_and_pruning(tmp_path: Path) -> None:
    saved_steps(tmp_path, full=[0, 4, 10], weights=[2, 9, 12])
    (tmp_path / "step7").mkdir()  # none of ours
    (tmp_path / "step8-unsharded").mkdir()
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [0, 2, 4, 9, 10, 12]
    newest, newest_full = latest(tmp_path, full=False), latest(tmp_path)
    assert newest is not None
    assert newest_full is not None
    assert (newest.step, newest_full.step) == (12, 10)
    prune(tmp_path, keep=2)
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [2, 4, 9, 10, 12]
    prune(tmp_path, keep=1, listed=[4])  # it stays, and does not count
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [2, 4, 9, 10, 12]
    prune(tmp_path, keep=0)  # the newest full one stays
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [2, 9, 10, 12]
    assert not list(tmp_path.glob(".*"))
    assert find_checkpoints(tmp_path / "nowhere") == []
    assert latest(tmp_path / "nowhere") is None


def test_a_crash_while_removing_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_steps(tmp_path, full=[0, 4], weights=[])
    with monkeypatch.context() as crash:
        crash.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, keep=1)
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [4]
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
    assert latest(tmp_path, full=False) == Checkpoint(tmp_path / "step3", 3, True, False)
    assert not any(torch.equal(value, before[name]) for name, value in load_weights(tmp_path / "step3").items())
    assert [path.name for path in tmp_path.iterdir()] == ["step3"]


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
    assert find_checkpoints(tmp_path) == []
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


def test_a_folder_that_cannot_be_made_is_a_user_error(ranks, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert len(set(ranks.run(2, save_error, tmp_path / "run", "ddp"))) == 1


# Damage and malice. Every rank must answer: a hang fails the test.

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
        ("[]", "has format None: this version reads 1"),
        ('{"format": 2}', "has format 2: this version reads 1"),
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


# Weights from elsewhere.


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
