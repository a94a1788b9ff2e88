"""A small experiment of a trainer that is not ai2-olmo's, over random text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BATCH, LENGTH, VOCAB, STEPS = 6, 16, 128, 8

STREAM = """
name: run
folder: {folder}/run
trainer: {trainer}
batch_size: 6
sequence_length: 16
steps: 8
eval_interval: 4
corpus: {{{paths}vocab_size: 128, eos_token_id: 0, pad_token_id: 1}}
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 6}}}}
  - {{name: plus, kind: modular_addition, options: {{n_values: 5}}}}
injections:
  - {{task: less, instances_per_batch: 5/2}}
  - {{task: plus, schedule: burst, instances: 2, every: 3}}
"""


def write_stream(folder: Path, trainer: str, *, own_host: bool = False) -> Path:
    """The experiment's file, with two shards, of about two epochs, unless the rows are somebody else's."""
    folder.mkdir(parents=True, exist_ok=True)
    if not own_host:
        rng = np.random.default_rng(5)
        for number, sequences in enumerate((20, 15)):
            tokens = np.minimum(rng.geometric(0.05, sequences * LENGTH + 7), VOCAB - 1).astype(np.uint16)
            tokens.tofile(folder / f"part-{number}.npy")
    paths = "" if own_host else f'paths: ["{folder}/part-*.npy"], '
    path = folder / "stream.yaml"
    path.write_text(STREAM.format(folder=folder, trainer=trainer, paths=paths))
    return path
