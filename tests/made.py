"""Small real parts that the tests of several modules are built from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.vocabulary import Vocabulary

EOS, PAD = 0, 1
_SMALL_EXPERIMENT = """
name: "{name}"
folder: {folder}/run
model: {{name: tiny-8, vocab_size: 128, embedding_size: 128, max_sequence_length: 16}}
corpus: {{paths: ["{folder}/part.npy"], vocab_size: 128, eos_token_id: 0, pad_token_id: 1}}
tasks: [{{name: less, kind: comparison, options: {{n_values: 6}}}}]
injections: [{{task: less, instances_per_batch: 1/2}}]
train: {{max_duration: 20, global_train_batch_size: 8}}
"""


def vocabulary(size: int = 200) -> Vocabulary:
    """Bare ids with EOS 0 and PAD 1."""
    return Vocabulary.without_tokenizer(size, EOS, PAD)


def tasks_of(*names: str, n_values: int = 5, size: int = 200) -> list[Task]:
    """Tasks on disjoint tokens of `vocabulary(size)`: comparison and modular addition in turn."""
    kinds = ("comparison", "modular_addition")
    tasks: list[Task] = []
    taken: set[int] = set()
    for number, name in enumerate(names):
        config = TaskConfig(name, kinds[number % 2], seed=3, options={"n_values": n_values})
        tasks.append(Task.build(config, vocabulary(size), taken))
        taken |= set(tasks[-1].tokens.tolist())
    return tasks


def write_shards(
    folder: Path, lengths: list[int], dtype: str = "uint16", ids: np.ndarray | int = 200, seed: int = 0
) -> list[Path]:
    """Shards of `lengths` random tokens out of `ids` (a range, or the ids themselves)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number, length in enumerate(lengths):
        paths.append(folder / f"part-{number:05d}.npy")
        rng.choice(ids, length).astype(dtype).tofile(paths[-1])
    return paths


def small_experiment(folder: Path, name: str = "small") -> Path:
    """The file of an experiment of 20 steps on 40 rows, with the rows beside it."""
    np.random.default_rng(0).integers(2, 128, 16 * 40).astype(np.uint16).tofile(folder / "part.npy")
    path = folder / "small.yaml"
    path.write_text(_SMALL_EXPERIMENT.format(name=name, folder=folder), encoding="utf-8")
    return path
