"""What a run measures, at any world size, and that it trains exactly as long as asked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from olmo.optim import build_scheduler
from ranks import Ranks, alone
from runs import BATCH, into, metrics, series, train_on_rank

from olmo_inject.audit import audit_run
from olmo_inject.config import load_experiment
from olmo_inject.data import build_data
from olmo_inject.runs.metrics import Metrics
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.callbacks.progress import Progress
from olmo_inject.training.checkpoints import on_disk
from olmo_inject.training.checkpoints.weights import assign_weights, load_weights
from olmo_inject.training.olmo_config import model_config, train_config
from olmo_inject.training.parallel import build_model
from olmo_inject.training.run import build_trainer, runtime_config
from olmo_inject.training.trainer import InjectionTrainer

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden_losses.json")


def test_losses_are_golden(finished: Path) -> None:
    """A refactoring must not change them. To renew after an intended change, write `found` to the file."""
    found = {name: series(finished, name) for name in ("train/loss", "train/lm_loss", "train/less/loss")}
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == found.keys()
    for name, by_step in golden.items():
        assert {str(step) for step in found[name]} == by_step.keys()
        # Processors differ in the last digits of a float32.
        np.testing.assert_allclose(list(found[name].values()), list(by_step.values()), rtol=2e-5)


def test_exactly_the_steps_asked_for_are_trained(finished: Path) -> None:
    assert list(series(finished, "train/loss")) == list(range(12))
    assert [c.step for c in on_disk.checkpoints_of(finished)] == [4, 8, 12]
    assert list(series(finished, "eval/less/test/loss")) == [0, 4, 8, 12]
    evidence = [json.loads(line) for line in (finished / "evidence.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evidence] == list(range(12))


def test_the_finished_run_says_so_and_changes_nothing(finished: Path, path: Path, ranks: Ranks) -> None:
    before = {f: f.stat().st_mtime_ns for f in finished.rglob("*.pt")} | {"metrics": metrics(finished)}
    assert ranks.run(1, train_on_rank, path) == ["already trained to step 12: nothing to do"]
    assert {f: f.stat().st_mtime_ns for f in finished.rglob("*.pt")} | {"metrics": metrics(finished)} == before


def test_a_line_says_which_loss_it_shows_and_whether_a_burst_raised_it(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    log = Metrics(tmp_path / "metrics.jsonl")
    progress = Progress(experiment, build_data(experiment), log)
    log.log(3, {"train/lm_loss": 2.5})
    log.close()
    for progress.step, more in ((2, ""), (3, " (in a burst of plus)"), (4, "")):
        assert progress.values() == f"text loss 2.500{more}"


@pytest.mark.parametrize(
    ("world", "more"),
    [
        (1, ["train.device_train_microbatch_size=12"]),
        (2, []),
        (3, ["train.distributed_strategy=fsdp"]),
        (4, ["train.device_train_microbatch_size=2"]),  # of a rank's three rows: an uneven last one
        (4, ["train.distributed_strategy=fsdp"]),
    ],
    ids=["one microbatch", "ddp 2", "fsdp 3", "ddp 4", "fsdp 4"],
)
def test_world_size_and_strategy_change_nothing_but_the_last_digits(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks, world: int, more: list[str]
) -> None:
    run = tmp_path / "run"
    # Resumed on the way, at another world size than it was begun with.
    ranks.run(world, train_on_rank, path, *into(run, "train.max_duration=8", *more))
    ranks.run(world % 3 + 1, train_on_rank, path, *into(run, *more))
    assert (run / "evidence.jsonl").read_bytes() == (finished / "evidence.jsonl").read_bytes()
    ours, theirs = metrics(run), metrics(finished)
    assert [(m["step"], m["name"], m.get("count")) for m in ours] == [
        (m["step"], m["name"], m.get("count")) for m in theirs
    ]
    np.testing.assert_allclose([m["value"] for m in ours], [m["value"] for m in theirs], rtol=2e-4, atol=1e-6)
    assert audit_run(run, progress=False).passed


def test_measuring_changes_nothing(finished: Path, path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """Evaluation and checkpoints in every step leave gradients, random states and weights alone."""
    run = tmp_path / "run"
    more = (
        "train.eval_interval=1",
        "checkpoints.also.windows=[{start: 0, stop: 12}]",
        "checkpoints.weights_only=true",
    )
    ranks.run(1, train_on_rank, path, *into(run, *more))
    assert (run / "step12/model.pt").read_bytes() == (finished / "step12/model.pt").read_bytes()
    assert series(run, "train/loss") == series(finished, "train/loss")
    kinds = {c.step: c.weights_only for c in on_disk.checkpoints_of(run)}
    assert kinds == {step: step not in (4, 8, 12) for step in range(13)}


def test_a_run_without_a_checkpoint_says_that_it_begins_again(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [*into(tmp_path / "run"), "train.max_duration=2"]
    for begins_again in (False, True):
        with alone():
            assert train_on_rank(path, *overrides).startswith("trained to step 2")
        assert ("begins again at step 0" in capfd.readouterr().err) is begins_again
        for saved in on_disk.checkpoints_of(tmp_path / "run"):
            shutil.rmtree(saved.path)


def test_keeping_few_checkpoints(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    more = ("train.save_interval=2", "train.save_num_checkpoints_to_keep=2", "train.max_duration=8")
    ranks.run(1, train_on_rank, path, *into(run, *more, "checkpoints.also.steps=[1,3]"))
    assert [c.step for c in on_disk.checkpoints_of(run)] == [1, 3, 6, 8]  # what was listed stays


def _dropout_masks(path: Path, folder: Path) -> list[list[bool]]:
    """What dropout in the first block takes out, step by step, on this rank."""
    experiment = load_experiment(
        path, [f"folder={folder}", "model.residual_dropout=0.5", "train.max_duration=2", "train.eval_interval=9"]
    )
    trainer = build_trainer(experiment, build_data(experiment), torch.device("cpu"), write_folder=folder.mkdir)
    masks: list[list[bool]] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        if trainer.dist_model.training:
            masks.append((out == 0).flatten().tolist())

    trainer.model.transformer.blocks[0].dropout.register_forward_hook(note)
    try:
        trainer.fit()
    finally:
        trainer.close()
    return masks


def test_every_rank_and_step_has_dropout_of_its_own(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    first, second = ranks.run(2, _dropout_masks, path, tmp_path / "run")
    masks = first + second
    assert len(masks) >= 8  # each several: two steps of several micro-batches, twice a block
    assert all(0 < sum(mask) < len(mask) for mask in masks)
    assert len({tuple(mask) for mask in masks}) == len(masks)


def test_losses_are_what_an_independent_computation_gives(finished: Path, path: Path) -> None:
    """Task loss, accuracy, and the loss on all other tokens of step 8, from checkpoint step8 and the corpus."""
    experiment = load_experiment(path)
    data = build_data(experiment)
    step = 8
    with alone() as device:
        model, dist_model = build_model(runtime_config(experiment, 1), device)
        assign_weights(dist_model, load_weights(finished / f"step{step}", model_config(experiment.model)))
        tokens = torch.stack([data.corpus[step * BATCH + row]["input_ids"] for row in range(BATCH)])
        with torch.no_grad():
            logits = model(tokens).logits.double()
    losses = -torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
    injections = data.plan.at(step)
    spliced = torch.zeros_like(losses, dtype=torch.bool)
    spliced[injections.rows.astype(np.int64), :3] = True
    assert series(finished, "train/loss")[step] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert series(finished, "train/lm_loss")[step] == pytest.approx(losses[~spliced].mean().item(), rel=1e-5)
    for number, name in enumerate(("less", "plus")):
        rows = injections.rows[injections.task == number].astype(np.int64)
        if len(rows):
            assert series(finished, f"train/{name}/loss")[step] == pytest.approx(
                losses[rows, 1].mean().item(), rel=1e-5
            )
            labels = torch.from_numpy(data.tasks[number].label_tokens.astype(np.int64))
            mass = logits[rows, 1].softmax(-1)[:, labels].sum(-1)
            found = {
                what: series(finished, f"train/{name}/{what}")[step] for what in ("label_mass", "loss_among_labels")
            }
            assert found["label_mass"] == pytest.approx(mass.mean().item(), rel=1e-5)
            assert found["loss_among_labels"] == pytest.approx((losses[rows, 1] + mass.log()).mean().item(), rel=1e-4)
    # And the held-out evaluation at the same step: the very weights, two tokens of context.
    task = data.tasks[0]
    pairs = torch.from_numpy(task.triples[task.test_ids].astype(np.int64))
    with torch.no_grad():
        predicted = model(pairs[:, :2]).logits[:, -1].double()
    expected = -torch.log_softmax(predicted, -1).gather(-1, pairs[:, 2:])
    assert series(finished, "eval/less/test/loss")[step] == pytest.approx(expected.mean().item(), rel=1e-5)
    accuracy = (predicted.argmax(-1) == pairs[:, 2]).double().mean().item()
    assert series(finished, "eval/less/test/accuracy")[step] == pytest.approx(accuracy)


@pytest.mark.parametrize(("poison", "said"), [("nan", "step 7: loss is nan"), ("spike", "step 7: loss ")])
def test_a_bad_loss_stops_the_run_before_the_update(
    path: Path, tmp_path: Path, ranks: Ranks, poison: str, said: str
) -> None:
    run = tmp_path / "run"
    (message,) = set(ranks.run(2, _train_poisoned, path, run, poison))
    assert message.startswith(said)
    if poison == "spike":
        assert "spiked above" in message
    named = [int(part.split(" (")[0]) for part in message.split("highest loss: ")[1].split(";")[0].split(", ")]
    assert len(set(named)) == 5
    assert set(named) <= set(range(BATCH))
    assert message.endswith(f"last good checkpoint: {run / 'step4'}")
    assert on_disk.latest(run) == on_disk.read_checkpoint(run / "step4")
    assert max(series(run, "train/loss")) == 6


def _train_poisoned(path: Path, folder: Path, poison: str) -> str:
    """Weights that go wrong on one rank at step 7, as a broken kernel would make them."""
    from olmo_inject.errors import UserError
    from olmo_inject.runs.folder import prepare

    experiment = load_experiment(path, [f"folder={folder}", "safety.spike_window=5"])
    data = build_data(experiment)
    if int(os.environ["RANK"]) == 0:
        prepare(experiment, data)
    torch.distributed.barrier()
    trainer = build_trainer(experiment, data, torch.device("cpu"))

    class Poison(Callback):
        def before_step(self, trainer: InjectionTrainer, step: int, batch: object) -> None:
            if step == 7 and torch.distributed.get_rank() == 1:
                with torch.no_grad():
                    trainer.model.transformer.ff_out.weight.mul_(torch.nan if poison == "nan" else 300)

    trainer.callbacks.append(Poison())
    try:
        trainer.fit()
    except UserError as error:
        return str(error)
    finally:
        trainer.close()
    return "no error"


def test_weights_and_biases_offline(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    more = ("train.wandb.project=p", "train.wandb.log_interval=1")
    ranks.run(1, _train_offline, path, *into(run, "train.max_duration=4", *more))
    ranks.run(1, _train_offline, path, *into(run, "train.max_duration=8", *more))
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.stem for file in files}) == 1  # one run id across restarts
    logged: dict[int, dict[str, float]] = {}
    for file in files:
        for record in _read_wandb(file):
            logged.setdefault(int(record["plan_step"]), {}).update(record)
    ours = series(run, "train/loss")
    assert {step: logged[step]["train/loss"] for step in ours} == pytest.approx(ours)
    assert {s: logged[s]["eval/less/test/loss"] for s in (0, 4, 8)} == pytest.approx(series(run, "eval/less/test/loss"))


def _train_offline(path: Path, *overrides: str) -> str:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        return train_on_rank(path, *overrides)


def _read_wandb(file: Path) -> list[dict[str, float]]:
    """The history of an offline run: protobuf records in LevelDB's log format, behind W&B's header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, rows = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no record header crosses a block
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            if "plan_step" in items:
                rows.append(items)
    return rows


def test_norm_and_rate_of_every_update_are_measured(finished: Path, path: Path) -> None:
    """The rate is the schedule's: linear for two steps, then a cosine down to a tenth."""
    config = train_config(load_experiment(path).train)
    rates = series(finished, "optim/learning_rate")
    scheduler = build_scheduler(config)
    peak = config.optimizer.learning_rate
    assert rates == {step: scheduler.get_lr(peak, step + 1, config.max_duration) for step in range(12)}
    norms = series(finished, "optim/total_grad_norm")
    assert list(norms) == list(range(12))
    assert all(norm > 0 for norm in norms.values())
