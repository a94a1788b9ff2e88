"""Step time of `InjectionTrainer` with all its callbacks against the bare ai2-olmo `Trainer`, same model and data.

Both train in one process, in turns of a block of steps, each with its own loader. There is a ratio for whole steps
with loading, and one for the step alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from olmo.data import build_train_dataloader
from olmo.optim import build_scheduler
from olmo.train import Trainer

from benchmarks.timing import in_turns, paired_ratio, print_table
from olmo_inject.config import Experiment, load_experiment
from olmo_inject.corpus.from_text.sample import build_sample
from olmo_inject.data import build_data
from olmo_inject.runs.folder import prepare
from olmo_inject.training.compat import TrainerShims
from olmo_inject.training.parallel import (
    build_model,
    build_optimizer,
    destroy,
    init_process_group,
)
from olmo_inject.training.run import build_trainer, runtime_config

BLOCK = 8  # steps
ROUNDS = 8
SHAPES = ("tiny-16 32 64", "tiny-64 32 64", "tiny-128 128 16")  # model, tokens per row, rows per batch


class BareTrainer(TrainerShims, Trainer):
    """ai2-olmo's trainer, able to run on a CPU and nothing else."""


def main() -> None:
    """Print the ratios."""
    device = init_process_group("cpu")
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            build_sample(Path(folder) / "corpus", sources=["boolq", "hellaswag"], progress=False)
            for shape in SHAPES:
                experiment = _experiment(Path(folder), shape)
                ours, bare = _ours(experiment, device), _bare(experiment, device)
                whole = in_turns({"ours": _whole_steps(ours), "bare": _whole_steps(bare)}, ROUNDS)
                alone = in_turns({"ours": _steps_alone(ours), "bare": _steps_alone(bare)}, ROUNDS)
                ours.close()
                rows.append(
                    [
                        shape,
                        f"{min(whole['bare']) * 1e3:.2f} ms",
                        f"{min(whole['ours']) * 1e3:.2f} ms",
                        f"{(1 / paired_ratio(whole['ours'], whole['bare']) - 1) * 100:+.1f} %",
                        f"{(1 / paired_ratio(alone['ours'], alone['bare']) - 1) * 100:+.1f} %",
                    ]
                )
    finally:
        destroy()
    print_table(
        "InjectionTrainer against ai2-olmo's Trainer (to reach: under 2% more)",
        ["model, tokens per row, rows", "ai2-olmo, per step", "ours, per step", "with loading", "the step alone"],
        rows,
    )


def _experiment(folder: Path, shape: str) -> Experiment:
    model, length, rows = shape.split()
    path = folder / "experiment.yaml"
    path.write_text(
        f"""
        name: bench
        folder: {folder}/run-{model}
        corpus: {{folder: {folder}/corpus}}
        tasks: [{{name: tcmp, kind: comparison, options: {{n_values: 32}}}}]
        injections: [{{task: tcmp, per_sequence: 1/4}}]
        """
    )
    overrides = [
        f"model={model}",
        f"model.max_sequence_length={length}",
        f"train.global_train_batch_size={rows}",
        f"train.device_train_microbatch_size={rows}",
        "train.max_duration=100000",
        "train.eval_interval=1000000",
        "train.save_interval=1000000",
        "train.save_data_indices=false",  # ai2-olmo's own trainer does not write them either
    ]
    return load_experiment(path, overrides)


def _ours(experiment: Experiment, device: torch.device) -> Any:
    data = build_data(experiment)
    prepare(experiment, data)
    trainer = build_trainer(experiment, data, device)
    for callback in trainer.callbacks:
        callback.before_first_step(trainer)
    return trainer


def _bare(experiment: Experiment, device: torch.device) -> Any:
    cfg = runtime_config(experiment, 1)
    cfg.save_folder = f"{experiment.folder}-bare"
    cfg.data.paths = [str(path) for path in build_data(experiment).source.paths]
    model, dist_model = build_model(cfg, device)
    return BareTrainer(
        cfg=cfg,
        model=model,
        dist_model=dist_model,
        optim=build_optimizer(cfg, dist_model),
        scheduler=build_scheduler(cfg),
        train_loader=build_train_dataloader(cfg),
        device=device,
        evaluators=[],
    )


def _whole_steps(trainer: Any) -> Callable[[], float]:
    batches: Iterator[Any] = iter(trainer.train_loader)

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(BLOCK):
            _step(trainer, next(batches))
        return (time.perf_counter() - begun) / BLOCK

    return measure


def _steps_alone(trainer: Any) -> Callable[[], float]:
    batches: Iterator[Any] = iter(trainer.train_loader)

    def measure() -> float:
        ready = [next(batches) for _ in range(BLOCK)]
        begun = time.perf_counter()
        for batch in ready:
            _step(trainer, batch)
        return (time.perf_counter() - begun) / BLOCK

    return measure


def _step(trainer: Any, batch: dict[str, Any]) -> None:
    trainer.global_step += 1  # as ai2-olmo's loop does
    trainer.train_step(batch, reduce_global_loss=True)


if __name__ == "__main__":
    main()
