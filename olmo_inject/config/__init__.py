"""An experiment in YAML: its keys (`schema`), its files and overrides (`loading`), and all checks (`checks`).

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
    shipped_configs,
)
from olmo_inject.config.schema import (
    CheckpointConfig,
    CorpusConfig,
    Described,
    EvaluationConfig,
    Experiment,
    GradientConfig,
    InjectionConfig,
    PhaseConfig,
    ReferenceConfig,
    SafetyConfig,
)
from olmo_inject.config.stream import StreamExperiment

__all__ = [
    "CheckpointConfig",
    "CorpusConfig",
    "Described",
    "EvaluationConfig",
    "Experiment",
    "GradientConfig",
    "InjectionConfig",
    "PhaseConfig",
    "ReferenceConfig",
    "SafetyConfig",
    "StreamExperiment",
    "configs_folder",
    "experiment_yaml",
    "find_config",
    "load_described",
    "load_experiment",
    "named_model",
    "shipped_configs",
]
