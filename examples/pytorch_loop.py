"""A training loop of your own on an injected stream, which resumes from its checkpoint: the loop of docs/trainers.md.

    python examples/pytorch_loop.py my.yaml  # a file with `trainer: torch`, as docs/trainers.md has it
    olmo-inject audit runs/mine

The same command continues from the last checkpoint after an interruption, even a kill.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

from olmo_inject.adapters.recorder import Recorder
from olmo_inject.adapters.run import InjectedRun, RankBatches, collate
from olmo_inject.errors import UserError, reported

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def train(config: str, save_every: int = 100, stop: int | None = None) -> None:
    """Train what the file describes, or continue; up to step `stop` if it is given."""
    run = InjectedRun.open(config)
    checkpoint = run.experiment.run_folder / "checkpoints" / "last.pt"
    torch.manual_seed(1)
    vocab_size = run.data.source.vocabulary.size
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=vocab_size, **SHAPE))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    saved = torch.load(checkpoint) if checkpoint.exists() else {"step": 0}
    if saved["step"]:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    with Recorder(run) as recorder:
        recorder.begin(
            model,
            lambda rows: model(rows).logits[:, -1].float(),
            step=saved["step"],
            described={"size": "Llama, 32 wide, 2 deep", "vocab_size": vocab_size},
            settings={"learning_rate": 1e-2},
        )
        batches = RankBatches(run, first_step=saved["step"])
        for batch in DataLoader(run.dataset, batch_sampler=batches, collate_fn=collate):
            logits = model(batch["input_ids"]).logits
            targets = batch["labels"][:, 1:]
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum")
            recorder.forward(batch["index"], batch["input_ids"], batch["labels"], logits, loss)
            (loss / (targets != -100).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.end_step()
            if (step := recorder.global_step) % save_every == 0:
                recorder.before_checkpoint()
                checkpoint.parent.mkdir(exist_ok=True)
                state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)  # so that a kill leaves the old or the new one
                recorder.after_checkpoint()
                print(f"step {step}: loss {loss / (targets != -100).sum():.3f}, saved to {checkpoint}", flush=True)
            if step == stop:
                return


if __name__ == "__main__":
    with reported():
        if len(sys.argv) != 2:
            raise UserError("usage: python examples/pytorch_loop.py my.yaml")
        train(sys.argv[1])
