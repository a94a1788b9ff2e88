"""Every shim, with a check that fails once ai2-olmo or torch no longer needs it."""

from __future__ import annotations

import pickle
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from olmo.optim import build_scheduler
from olmo.train import Trainer
from olmo_core.distributed.checkpoint import init_optimizer_state
from olmo_core.io import serialize_to_tensor
from ranks import alone, build, tiny_config
from torch.distributed.fsdp import FullyShardedDataParallel

from olmo_inject.training import compat, parallel

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="the shim is for machines without CUDA")


class Shimmed(compat.TrainerShims, Trainer):
    pass


def trainer_of(kind: type[Trainer], device: torch.device) -> Trainer:
    config = tiny_config(device_train_batch_size=4)
    model, dist_model = parallel.build_model(config, device)
    return kind(
        cfg=config,
        model=model,
        dist_model=dist_model,
        optim=parallel.build_optimizer(config, dist_model),
        scheduler=build_scheduler(config),
        train_loader=None,  # type: ignore[arg-type]
        device=device,
        evaluators=[],
    )


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))}


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@no_cuda
def test_ai2_olmo_asks_for_the_state_of_cuda() -> None:
    with alone() as device:
        trainer = trainer_of(Trainer, device)
        with pytest.raises(AssertionError, match="not compiled with CUDA"):
            trainer.trainer_state_dict()
        with pytest.raises((AssertionError, KeyError)):
            trainer.restore_rng_state(compat.rng_state())


def test_trainer_state_is_plain_and_brings_random_numbers_back(tmp_path: Path) -> None:
    with alone() as device:
        trainer = trainer_of(Shimmed, device)
        trainer.global_step = 3
        torch.save(trainer.trainer_state_dict(), tmp_path / "train.pt")
        expected = draw()
        state = torch.load(tmp_path / "train.pt", weights_only=True)  # no allow-list
        draw()
        trainer.restore_rng_state(state["rng"])
        assert draw() == expected
    assert (state["global_step"], state["world_size"]) == (3, 1)


@no_cuda
def test_autocast_of_cuda_warns_on_a_cpu_and_the_shim_is_silent() -> None:
    with alone() as device:
        with pytest.warns(UserWarning, match="CUDA is not available"):
            plain, _ = trainer_of(Trainer, device).train_batch(batch())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer = trainer_of(Shimmed, device)
            shimmed, _ = trainer.train_batch(batch())
            losses, _ = trainer.eval_batch(batch())
            with compat.quiet_autocast(), pytest.raises(UserWarning, match="another"):
                warnings.warn("another", UserWarning, stacklevel=1)
    assert torch.equal(plain, shimmed)
    assert losses.mean().item() == pytest.approx(plain.item() * 16 / 15, rel=1e-5)


def test_ai2_olmo_core_moves_the_weights_to_make_optimizer_state() -> None:
    with alone():
        model, optim = build(tiny_config())
        before = [parameter.clone() for parameter in model.parameters()]
        init_optimizer_state(optim)
        assert not all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
        assert {state["step"].item() for state in optim.state.values()} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "lionw"])
def test_optimizer_state_is_made_without_a_trace(name: str) -> None:
    config = tiny_config()
    config.optimizer.name = name  # type: ignore[assignment]
    results = []
    with alone() as device:
        for initialise in (False, True):
            _, model = parallel.build_model(config, device)
            optim = parallel.build_optimizer(config, model)
            if initialise:
                compat.init_optimizer(optim)
                assert len(optim.state) == 10
                assert all(parameter.grad is None for parameter in model.parameters())
            for _ in range(2):
                model(input_ids=batch()["input_ids"]).logits.logsumexp(-1).mean().backward()
                optim.step()
                optim.zero_grad()
            state = dict(optim.state)
            compat.init_optimizer(optim)  # leaves state that is there
            assert all(optim.state[parameter] is state[parameter] for parameter in state)
            results.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_ai2_olmo_core_pickles_the_settings_of_the_optimizer() -> None:
    stored = serialize_to_tensor({"lr": 0.1}).numpy().tobytes()
    assert pickle.loads(stored) == {"lr": 0.1}


def test_fsdp_warns_when_it_is_alone() -> None:
    with alone() as device:
        model, _ = parallel.build_model(tiny_config(), device)
        with pytest.warns(UserWarning, match="NO_SHARD"):
            FullyShardedDataParallel(model, device_id=device)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            parallel.build_model(tiny_config("fsdp"), device)
        assert warned == []
