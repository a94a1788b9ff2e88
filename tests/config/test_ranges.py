"""Every number and word of a configuration, set to what nobody means: refused in one line, or the run can be built."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from olmo.model import OLMo
from olmo.optim import build_optimizer, build_scheduler
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from olmo_inject.config import Experiment, load_experiment
from olmo_inject.config.checks import OWNED, OWNED_DATA, OWNED_OPTIMIZER, OWNED_WANDB, check
from olmo_inject.config.olmo_settings import CompilerConfig, InstanceFilterConfig, WandbConfig
from olmo_inject.config.ranges import CHOICES, RANGES
from olmo_inject.errors import UserError
from olmo_inject.training.olmo_config import model_config, train_config

BASE = """
name: small
model:
  {d_model: 16, n_heads: 2, n_layers: 2, vocab_size: 100, embedding_size: 128, eos_token_id: 0, pad_token_id: 1,
   max_sequence_length: 8, attention_dropout: 0.0, residual_dropout: 0.0, embedding_dropout: 0.0}
corpus: {folder: never-opened}
tasks: [{name: tcmp, kind: comparison}]
injections: [{task: tcmp, instances_per_batch: 1/10}]
gradients: {at: {steps: [3]}}
train:
  max_duration: 100
  global_train_batch_size: 16
  max_grad_norm: 1.0
  distributed_strategy: ddp
  optimizer: {name: adamw}
  scheduler: {t_warmup: 10}
"""
INTS = (-(2**70), -1, 0, 1, 3, 2**70)
FLOATS = (-math.inf, -1.0, 0.0, 1.0, math.inf, math.nan)
NONSENSE = "nonsense"
OWNED_KEYS = {
    *(f"train.{name}" for name in OWNED),
    *(f"train.data.{name}" for name in OWNED_DATA),
    *(f"train.optimizer.{name}" for name in OWNED_OPTIMIZER),
    *(f"train.wandb.{name}" for name in OWNED_WANDB),
}
# Any whole number is a seed; lists of steps and windows, a task's injection and a corpus have checks of their own.
ELSEWHERE = {"plan_seed", "model.eos_token_id", "model.pad_token_id", "train.max_duration"}
# Text that anything may stand in, or that is read elsewhere.
WANDB = {f"train.wandb.{name}" for name in ("project", "entity", "group", "name")}
TEXT = {"name", "folder", "model_name", "start_from", "train.compile.backend", *WANDB}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(BASE)
    experiment = load_experiment(path)
    experiment.train.wandb, experiment.train.compile = WandbConfig(), CompilerConfig()
    experiment.train.data.instance_filter = InstanceFilterConfig()
    return experiment


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, set[Any]]]:
    """Dotted keys of plain values, with the types that may stand there."""
    hints = typing.get_type_hints(type(config))
    for entry in dataclasses.fields(config):
        key, value = f"{prefix}{entry.name}", getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            hint = hints[entry.name]
            union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            yield key, set(typing.get_args(hint)) if union else {hint}


def set_to(config: Any, key: str, value: Any) -> Any:
    """A copy that shares every part but those that the key goes through."""
    first, _, rest = key.partition(".")
    changed = copy(config)
    setattr(changed, first, set_to(getattr(config, first), rest, value) if rest else value)
    return changed


def build(experiment: Experiment) -> None:
    """A real model, optimizer and schedule, and a step of training."""
    train = train_config(experiment.train)
    torch.manual_seed(train.seed)
    model = OLMo(model_config(experiment.model).update_with(init_device="cpu"))
    optimizer, scheduler = build_optimizer(train, model), build_scheduler(train)
    for step in (0, 1, 99):
        rate = scheduler.get_lr(train.optimizer.learning_rate, step, 100)
        assert math.isfinite(rate)
        assert rate >= 0
        limit = scheduler.get_max_grad_norm(train.max_grad_norm, step, 100)
        assert limit is None or limit > 0
    logits = model(torch.zeros(2, experiment.sequence_length, dtype=torch.long)).logits
    logits.float().logsumexp(-1).mean().backward()
    optimizer.step()


def tried(experiment: Experiment, key: str, value: Any) -> None:
    changed = set_to(experiment, key, value)
    try:
        check(changed)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    small = changed.model.d_model <= 64 and changed.model.n_layers <= 8 and changed.model.vocab_size <= 200
    if key.startswith(("model.", "train.")) and small and changed.sequence_length <= 64:
        build(changed)


@pytest.mark.slow
def test_every_number_is_refused_or_can_be_built(base: Experiment) -> None:
    numbers = [(key, kinds) for key, kinds in leaves(base) if kinds & {int, float} and bool not in kinds]
    assert len(numbers) > 80
    for key, kinds in numbers:
        for value in (*(INTS if int in kinds else ()), *(FLOATS if float in kinds else ())):
            try:
                tried(base, key, value)
            except Exception as error:
                raise AssertionError(f"{key}={value}: {error!r}") from error


def test_every_number_stands_in_the_table(base: Experiment) -> None:
    """So a new key of ours, or of ai2-olmo's, does not go unchecked."""
    numbers = {key for key, kinds in leaves(base) if kinds & {int, float} and bool not in kinds}
    numbers -= OWNED_KEYS | ELSEWHERE
    parts = ("train.model.", "train.tokenizer.", "train.speed_monitor.")
    assert {key for key in numbers if not key.startswith(parts)} <= RANGES.keys()
    assert RANGES.keys() <= {key for key, _ in leaves(base)}
    assert CHOICES.keys() <= {key for key, _ in leaves(base)}


@pytest.mark.parametrize("value", [math.inf, math.nan, -(2**70)])
def test_no_number_takes_what_is_none(base: Experiment, value: float) -> None:
    for key in RANGES:
        given = (0.9, value) if key.endswith("betas") else value
        with pytest.raises(UserError, match=rf"^{key}: \S+ must be (finite, )?(above|at least) ") as refused:
            check(set_to(base, key, given))
        assert "\n" not in str(refused.value)


def test_every_word_is_one_that_means_something(base: Experiment) -> None:
    for key, kinds in leaves(base):
        if (
            str not in kinds
            or int in kinds
            or key in TEXT | OWNED_KEYS
            or key.startswith(("corpus", "train.tokenizer"))
        ):
            continue
        if key.startswith("train.model."):
            continue
        with pytest.raises(UserError, match=f"^{key}: 'nonsense' is not ") as refused:
            check(set_to(base, key, NONSENSE))
        assert "\n" not in str(refused.value)


def test_every_number_refuses_text_and_every_choice_others(base: Experiment) -> None:
    schema = OmegaConf.structured(Experiment)
    for key, kinds in leaves(Experiment()):
        if str in kinds or not kinds & {int, float, bool}:
            continue
        with pytest.raises(OmegaConfBaseException):
            OmegaConf.update(schema, key, NONSENSE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("model.n_kv_heads=3", "model.n_kv_heads: 3 does not divide n_heads 2"),
        ("model.n_kv_heads=1 model.multi_query_attention=true", "not with n_kv_heads, which decides it"),
        ("model.block_group_size=3", "model.block_group_size: 3 does not divide n_layers 2"),
        ("model.mlp_hidden_size=33", "model.mlp_hidden_size: swiglu needs an even number, not 33"),
        ("model.alibi=true model.rope=true", "model.alibi: not with model.rope"),
        ("model.alibi=true model.flash_attention=true", "model.alibi: not with model.flash_attention"),
        ("model.init_fn=fan_in", "model.init_fn: 'fan_in' is not normal, mitchell or full_megatron"),
        ("model.precision=amp_bf16", "model.precision: amp_bf16 is set by train.precision"),
        ("train.optimizer.betas=[0.9]", "length 1 does not match type hint length 2"),
        ("train.optimizer.betas=[0.9, 1.0]", "train.optimizer.betas: 1.0 must be at least 0 and below 1"),
        ("train.scheduler.warmup_min_lr=1", "train.scheduler.warmup_min_lr: 1.0 must be below the learning rate"),
        ("train.scheduler.name=inverse_sqrt_with_warmup train.scheduler.t_warmup=0", "t_warmup: 0 must be at least 1"),
        ("train.data.instance_filter={repetition_min_period: 20}", "repetition_min_period: 20 is more than"),
        ("train.save_num_checkpoints_to_keep=0", "train.save_num_checkpoints_to_keep: 0 keeps none"),
        ("train.distributed_strategy=null", "train.distributed_strategy: must be ddp or fsdp"),
        ("train.distributed_strategy=fsdp train.fsdp=null", "and train.fsdp is not set"),
        ("train.distributed_strategy=fsdp train.fsdp.wrapping_strategy=by_block_group", "needs model.block_group_size"),
        ("train.distributed_strategy=fsdp train.max_grad_norm_ratio=2", "works only under ddp"),
        ("train.compile={backend: quick}", "train.compile.backend: 'quick' is not one of "),
        ("train.max_duration=1e10", "train.max_duration: '1e10' is not a positive number of steps"),
        ("train.max_duration=9e99T", "train.max_duration: '9e99T' is not a positive number of steps"),
        ("train.global_train_batch_size=1000000000", "must be at least 1 and at most 1,048,576"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other(tmp_path: Path, changes: str, message: str) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    with pytest.raises(UserError) as refused:
        load_experiment(path, changes.replace(", ", ",").split(" ") if "{" not in changes else [changes])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
