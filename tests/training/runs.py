"""Real training runs, small: an experiment on disk, trained on ranks of the pool, read back."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError
from olmo_inject.runs.metrics import SPEED
from olmo_inject.training.run import train
from olmo_inject.utils.files import read_lines

BATCH, LENGTH, VOCAB = 12, 16, 128  # 12 rows divide among 1, 2, 3 and 4 ranks

EXPERIMENT = """
name: run
folder: {folder}/run
model:
  name: tiny-8
  vocab_size: {vocab}
  embedding_size: {vocab}
  max_sequence_length: {length}
corpus: {{paths: ["{folder}/part-*.npy"], vocab_size: {vocab}, eos_token_id: 0, pad_token_id: 1}}
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 6}}}}
  - {{name: plus, kind: modular_addition, options: {{n_values: 5}}}}
injections:
  - {{task: less, instances_per_batch: 5/2}}
  - {{task: plus, schedule: burst, instances: 2, every: 3}}
train:
  max_duration: 12
  global_train_batch_size: {batch}
  device_train_microbatch_size: 3
  save_interval: 4
  eval_interval: 4
  scheduler: {{t_warmup: 2}}
"""


def write_experiment(folder: Path) -> Path:
    """An experiment over random text of two shards, one and a half epochs long; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for number, sequences in enumerate((60, 40)):
        # Skewed ids, so that there is something to learn.
        tokens = np.minimum(rng.geometric(0.05, sequences * LENGTH + 7), VOCAB - 1).astype(np.uint16)
        tokens.tofile(folder / f"part-{number}.npy")
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.format(folder=folder, vocab=VOCAB, length=LENGTH, batch=BATCH))
    return path


def into(folder: Path, *more: str) -> tuple[str, ...]:
    """Overrides for a run in `folder`."""
    return (f"folder={folder}", *more)


def train_on_rank(path: Path, *overrides: str, overwrite: bool = False) -> str:
    """One rank's training, for `Ranks.run`; a user's mistake is returned as its message."""
    torch.set_num_threads(1)
    # The pool's processes are daemons, which may not have children; loader workers are, and end with the run.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    try:
        return train(load_experiment(path, overrides), torch.device("cpu"), overwrite=overwrite)
    except UserError as error:
        return f"UserError: {error}"


def metrics(run: Path) -> list[dict[str, Any]]:
    """Everything a run measured, timings apart."""
    return [line for line in read_lines(run / "metrics.jsonl") if not line["name"].startswith(SPEED)]


def series(run: Path, name: str) -> dict[int, float]:
    """One measurement by step."""
    return {line["step"]: line["value"] for line in metrics(run) if line["name"] == name}


def same_bits(a: Path, b: Path, step: int) -> bool:
    """Whether two runs agree in weights, optimizer state, measurements and evidence, to the bit."""
    weights, states = (
        [torch.load(run / f"step{step}" / f"{part}.pt") for run in (a, b)] for part in ("model", "optim")
    )
    return (
        metrics(a) == metrics(b)
        and (a / "evidence.jsonl").read_bytes() == (b / "evidence.jsonl").read_bytes()
        and _same_tensors(*weights)
        and all(_same_tensors(states[0]["state"][i], states[1]["state"][i]) for i in states[0]["state"])
    )


def _same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
