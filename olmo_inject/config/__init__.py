"""An experiment in YAML: what is allowed, where it comes from, and every check in one place.

name: tcmp-1-in-10
model: 20M                       # a file of configs/models, or a mapping of ai2-olmo's ModelConfig
corpus: {folder: runs/sample}    # or paths, dtype, tokenizer
tasks:
  - {name: tcmp, kind: comparison}
injections:
  - {task: tcmp, instances_per_batch: 1/10}
train:                           # ai2-olmo's TrainConfig; its overrides work as they do there
  max_duration: 1000
"""

from olmo_inject.config.loading import (
    configs_folder,
    experiment_yaml,
    find_config,
    load_described,
    load_experiment,
    named_model,
    one_line,
    read_described,
    shipped_configs,
)
from olmo_inject.config.parts import CorpusConfig, Described, EvaluationConfig, InjectionConfig, ReferenceConfig
from olmo_inject.config.schema import CheckpointConfig, Experiment, GradientConfig, SafetyConfig
from olmo_inject.config.stream import StreamExperiment

__all__ = [
    "CheckpointConfig",
    "CorpusConfig",
    "Described",
    "EvaluationConfig",
    "Experiment",
    "GradientConfig",
    "InjectionConfig",
    "ReferenceConfig",
    "SafetyConfig",
    "StreamExperiment",
    "configs_folder",
    "experiment_yaml",
    "find_config",
    "load_described",
    "load_experiment",
    "named_model",
    "one_line",
    "read_described",
    "shipped_configs",
]
