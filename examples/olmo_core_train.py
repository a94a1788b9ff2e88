"""Train a small OLMo-2 with OLMo-core 3 on an injected stream, on a CPU or GPUs, with one process or several.

    make core-env        # ai2-olmo 0.6.0 pins another OLMo-core, so this one has an environment of its own
    .venv/bin/olmo-inject corpus sample --out runs/corpus  # from ai2-olmo's package; or `corpus build`
    .venv-core/bin/torchrun --nproc-per-node=2 examples/olmo_core_train.py examples/olmo_core.yaml
    .venv-core/bin/python -m olmo_inject audit runs/olmo-core

The same command continues after an interruption. Without corpus shards in the YAML file, and with your own OLMo-core
loader, `InjectingDataLoader(loader, run)` takes the place of `PlannedDataLoader`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from olmo_core.distributed.parallel import DataParallelType
from olmo_core.nn.transformer import TransformerBlockType, TransformerConfig
from olmo_core.optim import AdamWConfig, ConstantWithWarmup
from olmo_core.train import Duration, TrainerConfig, prepare_training_environment, teardown_training_environment
from olmo_core.train.callbacks import CheckpointerCallback, ConsoleLoggerCallback
from olmo_core.train.train_module import TransformerDataParallelConfig, TransformerTrainModuleConfig

from olmo_inject.adapters.olmo_core import Injection, PlannedDataLoader, convert_checkpoints
from olmo_inject.adapters.run import InjectedRun
from olmo_inject.errors import UserError, reported
from olmo_inject.runs.folder import CHECKPOINTS

MODEL = {"d_model": 64, "n_layers": 2, "n_heads": 4, "hidden_size_multiple_of": 64}
OLMO2 = {"block_name": TransformerBlockType.reordered_norm, "qk_norm": True, "layer_norm_eps": 1e-6}
OPTIMIZER = {"lr": 3e-3, "weight_decay": 0.1}
WARMUP = 2


def train(config: str, *overrides: str, **changes: Any) -> None:
    """Train what the file describes, or continue; `changes` are settings of the Trainer."""
    run = InjectedRun.open(config, overrides)
    experiment, folder = run.experiment, run.experiment.run_folder
    model = TransformerConfig.llama_like(vocab_size=run.data.source.vocabulary.size, **MODEL, **OLMO2)
    module = TransformerTrainModuleConfig(
        rank_microbatch_size=experiment.sequence_length,  # tokens; a row at a time suits any number of processes
        max_sequence_length=experiment.sequence_length,
        optim=AdamWConfig(**OPTIMIZER),
        scheduler=ConstantWithWarmup(warmup=WARMUP),
        max_grad_norm=1.0,
        dp_config=TransformerDataParallelConfig(name=DataParallelType.ddp),
    ).build(model.build(init_device="cpu"))
    trainer = (
        TrainerConfig(
            **{
                "save_folder": str(folder / CHECKPOINTS),
                "max_duration": Duration.steps(experiment.steps),
                "metrics_collect_interval": 10,
                **changes,
            }
        )
        .with_callback("injection", Injection(run, settings={**OPTIMIZER, "warmup": WARMUP}))
        .with_callback("checkpointer", CheckpointerCallback(save_interval=4, save_async=False))
        .with_callback("console", ConsoleLoggerCallback())
        .build(module, PlannedDataLoader(run, work_dir=folder / CHECKPOINTS))
    )
    trainer.fit()
    convert_checkpoints(folder / CHECKPOINTS, model)  # for `evaluate` and every analysis


if __name__ == "__main__":
    prepare_training_environment(seed=1, backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        with reported():
            if len(sys.argv) < 2:
                raise UserError("usage: python examples/olmo_core_train.py my.yaml [key=value ...]")
            train(*sys.argv[1:])
    finally:
        teardown_training_environment()
