"""A run that is interrupted, gone on with, extended, branched off or begun anew, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from runs import into, metrics, same_bits, series, train_on_rank, write_experiment

from olmo_inject.audit import audit_run
from olmo_inject.config import load_experiment
from olmo_inject.training.checkpoints import on_disk
from olmo_inject.training.leftovers import tidy_finished

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("stop_after", "workers"), [(4, 0), (6, 2)])
def test_an_interrupted_run_ends_bit_identical(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks, stop_after: int, workers: int
) -> None:
    run = tmp_path / "run"
    more = (f"train.data.num_workers={workers}",)
    # The constant schedule lets a run be extended, so a shorter run is an interrupted one.
    ranks.run(1, train_on_rank, path, *into(run, f"train.max_duration={stop_after}", *more))
    # What a kill leaves behind: lines after the last checkpoint, and a torn one.
    for name in ("metrics.jsonl", "evidence.jsonl"):
        with (run / name).open("a") as file:
            file.write(json.dumps({"step": stop_after, "name": "train/loss", "value": 1.0}) + '\n{"step": 7, "na')
    if stop_after == 6:  # saved only because it was the end, evaluated likewise
        shutil.rmtree(run / "step6")
    assert "trained to step 12" in ranks.run(1, train_on_rank, path, *into(run, *more))[0]
    assert same_bits(finished, run, 12)
    assert audit_run(run, progress=False).passed


def test_a_resume_under_ddp_is_bit_identical(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    world = 3  # where the order of a sum of gradients matters
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ranks.run(world, train_on_rank, path, *into(whole, "train.max_duration=8"))
    ranks.run(world, train_on_rank, path, *into(parts, "train.max_duration=4"))
    ranks.run(world, train_on_rank, path, *into(parts, "train.max_duration=8"))
    assert same_bits(whole, parts, 8)


def test_what_killed_commands_left_is_removed_also_from_a_finished_run(
    path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    run = tmp_path / "run"
    changes = into(run, "train.save_interval=2", "train.max_duration=6")
    ranks.run(1, train_on_rank, path, *changes)
    (run / "step2").rename(run / ".step2.old")  # killed in the last removal, with step4 still to go
    (run / ".plan.json.123.tmp").write_text("{")
    tidy_finished(load_experiment(path, [*changes, "train.save_num_checkpoints_to_keep=1"]))
    assert sorted(entry.name for entry in run.iterdir() if "step" in entry.name) == ["step6"]
    assert not list(run.glob(".*.tmp"))


def with_a_seed(seed: int, path: Path, *overrides: str) -> str:
    """As a process of its own would begin, whatever this one ran before."""
    torch.manual_seed(seed)
    return train_on_rank(path, *overrides)


def test_an_interrupted_run_with_dropout_ends_bit_identical(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    dropout = ("model.residual_dropout=0.5", "train.save_interval=4")
    ranks.run(1, with_a_seed, 3, path, *into(whole, *dropout, "train.max_duration=8"))
    ranks.run(1, with_a_seed, 5, path, *into(run, *dropout, "train.max_duration=4"))
    ranks.run(1, with_a_seed, 4, path, *into(run, *dropout, "train.max_duration=8"))
    assert same_bits(whole, run, 8)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.global_train_batch_size=6", "train.global_train_batch_size"),
        ("model.max_sequence_length=32", "model.max_sequence_length"),
        ("model.d_model=16", "model.d_model"),
        ("train.optimizer.weight_decay=0", "train.optimizer.weight_decay"),
        ("train.seed=1", "train.seed"),
        ("plan_seed=1", "plan_seed"),
        ("corpus.seed=1", "corpus.seed"),
        ("tasks.0.seed=1", "tasks"),
        ("injections.0.instances_per_batch=1", "injections"),
        ("train.max_duration=8", "at step 12"),
    ],
)
def test_a_resume_that_is_another_run_is_refused(
    finished: Path, path: Path, ranks: Ranks, change: str, named: str
) -> None:
    if change.startswith(("tasks.0", "injections.0")):  # OmegaConf's dotted overrides do not reach into lists
        text = path.read_text()
        old, new = ("instances_per_batch: 5/2", "instances_per_batch: 1")
        if change.startswith("tasks"):
            old, new = ("kind: comparison", "kind: comparison, seed: 1")
        changed = path.with_name("changed.yaml")
        changed.write_text(text.replace(old, new))
        said = ranks.run(1, train_on_rank, changed)[0]
    else:
        said = ranks.run(1, train_on_rank, path, change)[0]
    assert said.startswith("UserError")
    assert named in said


def test_a_decaying_schedule_cannot_be_extended(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    decaying = "train.scheduler.name=cosine_with_warmup"
    ranks.run(1, train_on_rank, path, *into(run, decaying, "train.max_duration=4"))
    said = ranks.run(1, train_on_rank, path, *into(run, decaying, "train.max_duration=8"))[0]
    assert "train.max_duration 4 -> 8" in said


def test_a_changed_corpus_is_refused(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    own = write_experiment(tmp_path)
    ranks.run(1, train_on_rank, own, "train.max_duration=4")
    with (tmp_path / "part-1.npy").open("ab") as shard:
        shard.write(bytes(64))
    assert "corpus has changed" in ranks.run(1, train_on_rank, own, "train.max_duration=8")[0]


def test_a_folder_that_is_no_run_is_left_alone(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        said = ranks.run(1, _train_overwriting, path, tmp_path, overwrite)[0]
        assert "is not a run" in said
    assert [f.name for f in tmp_path.iterdir() if f.name != ".lock"] == ["thesis.txt"]


def _train_overwriting(path: Path, folder: Path, overwrite: bool) -> str:
    return train_on_rank(path, f"folder={folder}", "train.max_duration=4", overwrite=overwrite)


def test_overwriting_begins_anew(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, *into(run, "train.max_duration=4"))
    first = (run / "step4/model.pt").read_bytes()
    assert "trained to step 4" in ranks.run(1, _train_overwriting, path, run, True)[0]
    assert (run / "step4/model.pt").read_bytes() == first
    assert list(series(run, "train/loss")) == list(range(4))


def test_starting_from_weights(finished: Path, path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    more = (f"start_from={finished / 'step12'}", "train.max_duration=4")
    ranks.run(2, train_on_rank, path, *into(run, *more))
    # Its first evaluation is of the weights it started from: the other's last.
    for name in ("eval/less/test/loss", "eval/plus/train/loss"):
        assert series(run, name)[0] == pytest.approx(series(finished, name)[12], rel=1e-6)
    assert list(series(run, "train/loss")) == list(range(4))


def test_branching_off_continues_the_run_itself(finished: Path, path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """With the same plan a branch is the run; with another it shares the past and the host text."""
    run = tmp_path / "run"
    more = (f"start_from={finished / 'step8'}", "start_state=full")
    ranks.run(1, train_on_rank, path, *into(run, *more))
    assert (run / "step12/model.pt").read_bytes() == (finished / "step12/model.pt").read_bytes()
    assert list(series(run, "train/loss")) == list(range(8, 12))
    assert audit_run(run, progress=False).passed
    evidence = run / "evidence.jsonl"
    evidence.write_text("".join(evidence.read_text().splitlines(keepends=True)[1:]))
    assert any("first line" in difference for difference in audit_run(run, progress=False).differences)


def test_a_time_limit_and_a_stop_file_stop_cleanly(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    said = ranks.run(2, train_on_rank, path, *into(run, "train.time_limit=0"))
    assert said == ["stopped at step 1, checkpoint written; the same command continues"] * 2
    assert "trained to step 12" in ranks.run(2, train_on_rank, path, *into(run))[0]
    assert audit_run(run, progress=False).passed
    assert list(series(run, "train/loss")) == list(range(12))


def test_a_run_killed_before_its_first_checkpoint_begins_anew(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """Also what it evaluated before its first step is there once."""
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, *into(run, "train.max_duration=4"))
    whole = metrics(run)
    for checkpoint in run.glob("step*"):
        shutil.rmtree(checkpoint)
    ranks.run(1, train_on_rank, path, *into(run, "train.max_duration=4"))
    assert metrics(run) == whole
    assert audit_run(run, progress=False).passed


def test_a_start_killed_before_the_experiment_was_written_goes_on(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, *into(run, "train.max_duration=4"))
    for left in run.iterdir():
        if left.name not in ("tasks", "plan.json", "config.yaml", ".lock"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (run / ".plan.json.123.tmp").write_text("{")
    assert "trained to step 4" in ranks.run(1, train_on_rank, path, *into(run, "train.max_duration=4"))[0]


def test_a_branch_keeps_the_batch_and_has_its_own_settings(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    branch = into(tmp_path / "branch", f"start_from={finished / 'step4'}", "start_state=full", "train.max_duration=6")
    said = ranks.run(1, train_on_rank, path, *branch, "train.global_train_batch_size=24")[0]
    assert "a branch keeps the batch" in said
    settings = ("train.optimizer.betas=[0.5,0.6]", "train.optimizer.weight_decay=0")
    ranks.run(1, train_on_rank, path, *into(tmp_path / "own", *branch[1:], *settings))
    optimizer = torch.load(tmp_path / "own" / "step6" / "optim.pt")
    assert {tuple(group["betas"]) for group in optimizer["param_groups"]} == {(0.5, 0.6)}
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.0}
    # And from none to some, which ai2-olmo does not set where it finds none.
    again = (f"start_from={tmp_path / 'own' / 'step6'}", "start_state=full", "train.max_duration=8")
    ranks.run(1, train_on_rank, path, *into(tmp_path / "again", *again, "train.optimizer.weight_decay=0.1"))
    optimizer = torch.load(tmp_path / "again" / "step8" / "optim.pt")
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.1}


def test_all_ranks_go_on_from_the_checkpoint_that_rank_0_sees(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """On a network file system another node may not see the newest yet."""
    run = into(tmp_path / "run")
    ranks.run(2, train_on_rank, path, *run, "train.max_duration=8")
    assert ranks.run(2, _train_with_an_old_view, path, *run) == ["trained to step 12"] * 2
    assert audit_run(tmp_path / "run", progress=False).passed


def _train_with_an_old_view(path: Path, *overrides: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == 1:
            newest = on_disk.latest
            patch.setattr(on_disk, "latest", lambda folder, full=True: newest(folder / "nowhere", full))
        return train_on_rank(path, *overrides).split(" in ")[0]


def test_the_plan_s_record_follows_an_extension(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run, records = tmp_path / "run", []
    for steps in (4, 6):
        ranks.run(1, train_on_rank, path, *into(run, f"train.max_duration={steps}"))
        records.append(json.loads((run / "plan.json").read_text()))
    assert [record["steps"] for record in records] == [4, 6]
    assert records[0]["run_id"] == records[1]["run_id"]
