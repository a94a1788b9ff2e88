"""Gradient cosines measured while training, against those of the checkpoints and of the trainer's own backward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from runs import metrics, train_on_rank, write_experiment

from analysis.methods.gradients import batch_of, run_data, step_cosines
from analysis.read.checkpoints import select_checkpoints
from analysis.read.skipped import Skipped
from olmo_inject.config import load_experiment
from olmo_inject.data import build_data
from olmo_inject.errors import UserError
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.checkpoints.load import load_model
from olmo_inject.training.checkpoints.transformers import to_transformers
from olmo_inject.training.loss import batch_targets
from olmo_inject.training.mlp_gradients import MlpGradients
from olmo_inject.training.olmo_config import model_config
from olmo_inject.training.run import build_trainer
from olmo_inject.training.trainer import InjectionTrainer

pytestmark = pytest.mark.slow

STEPS = (0, 2, 3, 5)  # step 3 has a burst, 0 both tasks, 2 and 5 only the comparison
MEASURED = f"gradients.at.steps={list(STEPS)}"
SAVED = f"checkpoints.also.steps={list(STEPS)}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("gradients"))


def logged(run: Path) -> dict[tuple[int, str], float]:
    return {
        (line["step"], line["name"]): line["value"] for line in metrics(run) if line["name"].startswith("gradient/")
    }


@pytest.mark.parametrize(
    ("world", "overrides"),
    [(1, ["gradients.targets=label", "gradients.layer=1"]), (2, []), (2, ["train.distributed_strategy=fsdp"])],
    ids=["label alone", "ddp", "fsdp"],
)
def test_in_the_run_and_afterwards_agree(
    world: int, overrides: list[str], path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    folder = tmp_path / "run"
    answers = ranks.run(
        world,
        train_on_rank,
        path,
        f"folder={folder}",
        MEASURED,
        SAVED,
        "gradients.rows_per_pass=5",
        *overrides,
    )
    assert all("trained" in answer for answer in answers)
    mlp_gradient, config, skipped = logged(folder), load_experiment(folder / "experiment.yaml").gradients, Skipped()
    assert {step for step, _ in mlp_gradient} == set(STEPS)
    compared = 0
    for checkpoint in select_checkpoints([folder], ",".join(map(str, STEPS)), skipped):
        options = replace(config, rows_per_pass=7)  # not the run's
        for row in step_cosines(load_model(checkpoint.path), checkpoint, options).to_dict("records"):
            ending = f"{row['kind']}/{row['of']}" if row["of"] else row["kind"]
            cosine = mlp_gradient.get((checkpoint.step, f"gradient/{row['task']}/cos_{ending}"))
            assert (cosine is None) == (row["cosine"] != row["cosine"])
            if cosine is not None:
                assert cosine == pytest.approx(row["cosine"], abs=2e-5)
                for name in ("null", "among"):
                    other = mlp_gradient[checkpoint.step, f"gradient/{row['task']}/{name}_{ending}"]
                    assert other == pytest.approx(row[name], abs=2e-5)
                norm = mlp_gradient[checkpoint.step, f"gradient/{row['task']}/norm_{ending}"]
                assert norm == pytest.approx(row["norm"], rel=1e-4)
                compared += 1
    assert not skipped.messages
    # Of two tasks: the batch, its two parts and two references at each of 4 steps; the comparison's injections at
    # each step too, and the addition's at 2 of them.
    assert compared == 2 * (4 * 5 + 4 + 2)


def test_measuring_leaves_training_to_the_bit_as_it_is(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    for name, more in (("with", [MEASURED]), ("without", [])):
        ranks.run(1, train_on_rank, path, f"folder={tmp_path / name}", *more)
    weights = [torch.load(tmp_path / name / "step12" / "model.pt") for name in ("with", "without")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert logged(tmp_path / "with")
    assert not logged(tmp_path / "without")


class _TrainersOwn(Callback):
    """Keeps the gradient of one MLP that the trainer's backward pass left."""

    def before_update(self, trainer: InjectionTrainer, step: int, batch: object, sums: object) -> None:
        block = trainer.model.transformer.blocks[1]
        joined, down = block.ff_proj.weight.grad, block.ff_out.weight.grad
        assert joined is not None
        assert down is not None
        up, gate = joined.chunk(2)
        self.mlp_gradient = torch.cat([gate, up, down.T], dim=1).clone()
        trainer.stopping = True


def _distance_from_the_trainer(path: Path, folder: Path) -> float:
    experiment = load_experiment(path, [f"folder={folder}", "checkpoints.also.steps=[0]"])
    data = build_data(experiment)
    folder.mkdir(exist_ok=True)
    trainer = build_trainer(experiment, data, torch.device("cpu"))
    trainer.callbacks = [own := _TrainersOwn()]
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    trainer.close()
    batch, _ = batch_of(data, 0)
    summed = MlpGradients(
        to_transformers(weights, model_config(experiment.model)), 1, 5 * experiment.sequence_length
    ).summed(batch["input_ids"], batch_targets(batch))
    ours = summed / batch["input_ids"].numel()
    dist.barrier()
    return float((ours - own.mlp_gradient).norm() / own.mlp_gradient.norm())


def test_g_is_the_gradient_that_the_trainer_takes(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    for world in (1, 2):
        for distance in ranks.run(world, _distance_from_the_trainer, path, tmp_path / str(world)):
            assert distance < 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gradients.layer=2"], r"gradients\.layer: 2 is not in 0\.\.1"),
        (["gradients.neurons=33"], r"gradients\.neurons: 33 is more than the 32"),
        (["gradients.targets=all"], r"gradients\.targets: 'all' is not injected or label"),
        (["gradients.rows_per_pass=0"], r"gradients\.rows_per_pass: 0 must be at least 1"),
        (["gradients.precision=fp16"], r"gradients\.precision: 'fp16' is not fp32 or bf16"),
        (["gradients.at.steps=[-1]"], r"gradients\.at\.steps: -1"),
        (["train.data.generate_doc_lengths=true"], r"gradients\.at: not with"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_load(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(path, [MEASURED, *overrides] if "at.steps" not in overrides[0] else overrides)


def test_a_changed_corpus_is_refused(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    folder = tmp_path / "moved"
    changed = write_experiment(tmp_path / "corpus")
    ranks.run(1, train_on_rank, changed, f"folder={folder}", "train.max_duration=1", "train.scheduler.t_warmup=0")
    with (tmp_path / "corpus" / "part-1.npy").open("ab") as shard:
        shard.write(bytes(64))
    with pytest.raises(UserError, match="changed since the run was trained: corpus"):
        run_data(folder)
