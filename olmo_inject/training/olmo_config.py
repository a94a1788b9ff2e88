"""Convert an experiment's settings to ai2-olmo's own configuration objects."""

from __future__ import annotations

from typing import Any, TypeVar

from olmo.config import ModelConfig, TrainConfig
from omegaconf import OmegaConf

from olmo_inject.config import olmo_settings
from olmo_inject.utils.described_yaml import defaults, plain

Settings = TypeVar("Settings")


def model_config(model: olmo_settings.ModelConfig) -> ModelConfig:
    """ai2-olmo's configuration of a model."""
    return _as(ModelConfig, model)


def train_config(train: olmo_settings.TrainConfig) -> TrainConfig:
    """ai2-olmo's configuration of a training run; its `model` is the default one."""
    return _as(TrainConfig, train)


def _as(kind: type[Settings], settings: Any) -> Settings:
    merged = defaults(kind)
    merged.merge_with(plain(settings))
    converted = OmegaConf.to_object(merged)
    assert isinstance(converted, kind)
    return converted
