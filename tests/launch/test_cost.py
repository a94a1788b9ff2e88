"""Costs against closed forms and real ai2-olmo models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.cost import Accelerator, accelerator, cost, total
from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError

CARD = Accelerator("card", tflops=100, memory_gb=80, price=2.0)
PAPER = {"4M": 3_743_744, "20M": 19_095_552, "300M": 319_946_752, "1B": 1_176_764_416, "4B": 3_968_040_960}


@pytest.mark.parametrize(("name", "parameters"), PAPER.items())
def test_the_five_sizes(name: str, parameters: int) -> None:
    one = cost(load_experiment("paper-tcmp", [f"model={name}"]), 8, CARD, 0.5)
    d_model = load_experiment("paper-tcmp", [f"model={name}"]).model.d_model
    assert one.counted_parameters == parameters
    assert one.parameters == parameters + 50304 * d_model
    assert one.tokens == 50_000 * 1024 * 4096
    assert one.flops_6nd == 6 * parameters * one.tokens


def test_time_and_money_are_arithmetic() -> None:
    experiment = load_experiment("paper-tcmp", ["model=20M"])
    one, other = cost(experiment, 8, CARD, 0.5), cost(experiment, 16, CARD, 0.25)
    assert one.flops == one.flops_6nd + 12 * 16 * 192 * 4096 * one.tokens
    assert one.gpu_hours == pytest.approx(one.flops / 50e12 / 3600)
    assert one.hours == one.gpu_hours / 8 == other.hours
    assert one.dollars == 2 * one.gpu_hours
    assert one.corpus_gb == 2 * one.tokens / 1e9


def test_memory_falls_where_state_is_sharded_and_micro_batches_shrink() -> None:
    ddp = load_experiment("paper-tcmp", ["model=1B"])
    fsdp = load_experiment("paper-tcmp", ["model=1B", "train.distributed_strategy=fsdp"])
    small = load_experiment("paper-tcmp", ["model=1B", "train.device_train_microbatch_size=1"])
    saved = (cost(ddp, 8, CARD, 0.5).memory_gb - cost(fsdp, 8, CARD, 0.5).memory_gb) * 1e9
    assert saved == pytest.approx(16 * cost(ddp, 8, CARD, 0.5).parameters * 7 / 8)
    assert cost(small, 8, CARD, 0.5).memory_gb < cost(ddp, 8, CARD, 0.5).memory_gb


def test_disk_counts_the_checkpoints_that_will_be_kept() -> None:
    def gigabytes(*overrides: str) -> float:
        one = cost(load_experiment("demo", ["train.max_duration=100", *overrides]), 1, CARD, 0.5)
        return one.checkpoints_gb * 1e9 / one.parameters

    every_ten = ("train.save_interval=10", "train.save_num_checkpoints_to_keep=-1")
    assert gigabytes(*every_ten) == pytest.approx(12 * 10)
    assert gigabytes("train.save_interval=10", "train.save_num_checkpoints_to_keep=2") == pytest.approx(12 * 2)
    # 1, 10 and 100 are asked for too; two of them are regular ones.
    also = ("checkpoints.also.log_spaced=1", "checkpoints.weights_only=true")
    assert gigabytes(*every_ten, *also) == pytest.approx(12 * 10 + 4)


def test_a_total_adds_what_adds_up() -> None:
    one = cost(load_experiment("demo"), 1, CARD, 0.5)
    both = total([one, replace(one, hours=99.0)])
    assert (both.gpu_hours, both.tokens) == (2 * one.gpu_hours, 2 * one.tokens)
    assert (both.hours, both.corpus_gb, both.memory_gb) == (99.0, one.corpus_gb, one.memory_gb)


def test_bad_cards_and_utilizations() -> None:
    with pytest.raises(UserError, match="A100"):
        accelerator("abacus")
    assert accelerator("H100", price=1.5).price == 1.5
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        cost(load_experiment("demo"), 1, CARD, 40)
