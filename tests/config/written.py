"""A small experiment as a file, and what is said of changes to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError

BASE = """
name: small
model:
  d_model: 16
  n_heads: 2
  n_layers: 1
  vocab_size: 100
  embedding_size: 128
  eos_token_id: 0
  pad_token_id: 1
  max_sequence_length: 8
corpus: {folder: never-opened}
tasks: [{name: tcmp, kind: comparison}, {name: tadd, kind: modular_addition}]
injections: [{task: tcmp, instances_per_batch: 1/10}]
train: {max_duration: 100, global_train_batch_size: 16}
"""


def changed(base: Path, snippet: str) -> Path:
    """A file with `snippet` over the base."""
    path = base.with_name("changed.yaml")
    path.write_text(f"extends: {base.name}\n{snippet}\n")
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        load_experiment(path, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


INJECTION = "injections: [{{task: tcmp, {}}}]"
