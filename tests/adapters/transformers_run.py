"""A small run of transformers' Trainer, as a script for torchrun and as a function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, Trainer, TrainerCallback, TrainingArguments

from olmo_inject.adapters.run import InjectedRun, collate
from olmo_inject.adapters.transformers import Injection
from olmo_inject.errors import UserError, report

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
MODELS = {
    "gpt_neox": GPTNeoXConfig(vocab_size=128, intermediate_size=32, **SHAPE),
    "llama": LlamaConfig(vocab_size=128, intermediate_size=32, num_key_value_heads=1, **SHAPE),
}


class StopAt(TrainerCallback):
    """Ends the run after a step, as an interruption would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def train(
    config: Path, output: Path, kind: str, overrides: list[str], callbacks: tuple[Any, ...] = (), **arguments: Any
) -> Trainer:
    """Train what `config` describes, or go on; returns the Trainer."""
    torch.manual_seed(1)
    run = InjectedRun.open(config, overrides)
    resume = arguments.pop("resume_from_checkpoint", None)
    given = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "max_steps": 8,
        "save_steps": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    trainer = Trainer(
        AutoModelForCausalLM.from_config(MODELS[kind]),
        TrainingArguments(str(output), **given),
        train_dataset=run.dataset,
        data_collator=collate,
        callbacks=[Injection(run), *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


if __name__ == "__main__":
    kind, *runs = sys.argv[1:]  # CONFIG,OUTPUT and then stop=STEP or resume=CHECKPOINT: one run after another
    for one in runs:
        config, output, *more = one.split(",")
        given = dict(each.split("=", 1) for each in more)
        stops = (StopAt(int(given["stop"])),) if "stop" in given else ()
        try:  # of two processes: six rows a step
            train(
                *(Path(config), Path(output), kind, [], stops),
                per_device_train_batch_size=1,
                resume_from_checkpoint=given.get("resume"),
            )
        except UserError as error:
            report(error)
            raise SystemExit(2) from None
