"""Activations of all layers in one pass against one pass per layer, and all of `analyze` on a 20M checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.methods import das, patching
from analysis.methods.activations import activations
from analysis.methods.features import features_method
from analysis.methods.scores import scores_method
from analysis.read.checkpoints import StoredModel
from analysis.read.store import result
from benchmarks.timing import experiment_of, in_turns, paired_ratio, print_table, timed
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.training.checkpoints.load import without_progress_bars
from olmo_inject.training.checkpoints.transformers import transformers_config
from olmo_inject.training.olmo_config import model_config
from olmo_inject.training.structure import residual_points
from olmo_inject.vocabulary import Vocabulary

ROUNDS = 3
# One task takes eight to eighteen minutes on two cores, so only a part is timed: one of two dimensions, no untrained
# model, and the updates of the trial of two starts, which are about half of those that a search takes.
SHORT_DAS = das.SearchOptions(dimensions=(1,), updates=20, controls=False)
SHARE_OF_DAS = "about 1/8"
PAIRS = 256  # pairs of patching, the command's default


def model_of(name: str) -> tuple[PreTrainedModel, int]:
    """A random model of a shipped size, and the size of its vocabulary."""
    config = experiment_of(name).model
    return AutoModelForCausalLM.from_config(transformers_config(model_config(config))).eval(), config.vocab_size


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, size = model_of("tiny-64")
        task = Task.build(TaskConfig("tcmp", "comparison"), Vocabulary.without_tokenizer(size, 0, 1))
        large, vocab_size = model_of("20M")
        vocabulary = Vocabulary.without_tokenizer(vocab_size, vocab_size - 1, 1)
        tasks = [Task.build(TaskConfig(kind, kind), vocabulary) for kind in ("comparison", "modular_addition")]
        fewer = Task.build(TaskConfig("tcmp", "comparison", options={"n_values": 30}), vocabulary)
        rows = [_passes("tiny-64, 10,000 instances", small, task), _passes("20M, 900 instances", large, fewer)]
        print_table(
            f"Activations of all layers, {ROUNDS} rounds in turns",
            ["model", "layers", "one pass", "a pass for each", "ratio"],
            rows,
        )
        with without_progress_bars():
            large.save_pretrained(folder / "large")
        print_table(
            f"One 20M checkpoint, {torch.get_num_threads()} threads, default options; gradients need a run: see the "
            "benchmark of that name",
            ["method", "tasks", "computed", "kept"],
            list(_whole(folder, tasks)),
        )


def _whole(folder: Path, tasks: list[Task]) -> Iterator[list[str]]:
    """Each method on the model in `folder`, computed and then read back."""
    device = torch.device("cpu")
    for method, of in (
        (scores_method(), tasks),
        (features_method(), tasks),
        (patching.method(PAIRS), tasks),
        (das.method(SHORT_DAS), tasks[:1]),
    ):
        checkpoint = StoredModel(folder / "large", None, None, of, folder / "results")
        seconds, again = (timed(partial(result, checkpoint, method, device), time.perf_counter) for _ in range(2))
        name = method.name + (f", {SHARE_OF_DAS} of its work" if method.name == das.METHOD else "")
        yield [name, " and ".join(task.name for task in of), f"{seconds:.0f} s", f"{again:.2f} s"]


def _passes(label: str, model: PreTrainedModel, task: Task) -> list[str]:
    points = residual_points(model)
    seconds = in_turns(
        {
            "one": lambda: timed(lambda: activations(model, task), time.perf_counter),
            "each": lambda: timed(lambda: [activations(model, task, [point]) for point in points], time.perf_counter),
        },
        ROUNDS,
    )
    ratio = paired_ratio(seconds["one"], seconds["each"])
    return [label, str(len(points)), f"{min(seconds['one']):.2f} s", f"{min(seconds['each']):.2f} s", f"{ratio:.1f}"]


if __name__ == "__main__":
    main()
