"""Our copy of ai2-olmo's settings says what ai2-olmo's own classes say."""

from __future__ import annotations

import dataclasses
import enum
import typing

import olmo.config
import pytest
from torch.distributed.fsdp import ShardingStrategy

from olmo_inject.config import olmo_settings
from olmo_inject.config.olmo_settings import ModelConfig, TrainConfig
from olmo_inject.training.olmo_config import model_config, train_config

OURS = {
    name: kind
    for name, kind in vars(olmo_settings).items()
    if isinstance(kind, type) and kind.__module__ == olmo_settings.__name__
}
CHOICES = [name for name, kind in OURS.items() if issubclass(kind, enum.Enum) and name != "StrEnum"]
CLASSES = [name for name, kind in OURS.items() if dataclasses.is_dataclass(kind)]


def theirs(name: str) -> typing.Any:
    return ShardingStrategy if name == "ShardingStrategy" else getattr(olmo.config, name)


def described(hint: object) -> str:
    """A type without the module it is from and the way it is spelled."""
    if arguments := typing.get_args(hint):
        origin = typing.get_origin(hint)
        parts = [described(each) for each in arguments]
        union = "" if isinstance(origin, type) and origin.__module__ == "builtins" else "union"
        return f"{union or origin.__name__}[{', '.join(sorted(parts) if union else parts)}]"  # type: ignore[union-attr]
    return getattr(hint, "__name__", str(hint))


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    ours, others = OURS[name], theirs(name)
    assert {member.name: member.value for member in ours} == {member.name: member.value for member in others}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CLASSES)
def test_fields_types_and_defaults(name: str) -> None:
    ours, others = OURS[name], theirs(name)
    assert [each.name for each in dataclasses.fields(ours)] == [each.name for each in dataclasses.fields(others)]
    hints, their_hints = typing.get_type_hints(ours), typing.get_type_hints(others)
    for each, other in zip(dataclasses.fields(ours), dataclasses.fields(others), strict=True):
        assert described(hints[each.name]) == described(their_hints[other.name]), each.name
        default, their_default = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            for field in (each, other)
        )
        if dataclasses.is_dataclass(default):
            assert type(default).__name__ == type(their_default).__name__
        elif isinstance(default, enum.Enum):
            assert default.name == their_default.name
        else:
            assert default == their_default, each.name


def test_conversion_keeps_every_value() -> None:
    ours = TrainConfig(seed=7, max_duration="2e9T", fsdp=None, ddp=olmo_settings.DDPConfig(find_unused_params=True))
    ours.optimizer.betas = (0.8, 0.99)
    ours.optimizer.name = olmo_settings.OptimizerType.adamw
    ours.scheduler.t_warmup = 0.5
    converted = train_config(ours)
    assert isinstance(converted, olmo.config.TrainConfig)
    assert converted.optimizer.name is olmo.config.OptimizerType.adamw
    assert dataclasses.asdict(converted) == dataclasses.asdict(ours)  # choices compare as text
    model = ModelConfig(d_model=96, n_kv_heads=4, layer_norm_type=olmo_settings.LayerNormType.rms)
    assert dataclasses.asdict(model_config(model)) == dataclasses.asdict(model)


@pytest.mark.parametrize("flag", [None, True, False])
@pytest.mark.parametrize("heads", [None, 1, 3, 12])
def test_key_and_value_heads(flag: bool | None, heads: int | None) -> None:
    ours = ModelConfig(n_heads=12, multi_query_attention=flag, n_kv_heads=heads)
    try:
        expected = model_config(ours).effective_n_kv_heads
    except olmo.config.OLMoConfigurationError:
        with pytest.raises(ValueError, match="contradict"):
            _ = ours.effective_n_kv_heads
    else:
        assert ours.effective_n_kv_heads == expected
