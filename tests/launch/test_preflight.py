"""Preflight and calibration try the real thing, find what is wrong, and leave no trace."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from launch.cost.accelerators import Accelerator, find_accelerator
from launch.cost.calibrate import another_card, calibrated, check_device, time_run, utilization
from launch.cost.cost import flops_per_token
from launch.preflight import Preflight, run_checks, signal_seconds
from olmo_inject.cli import main
from olmo_inject.config import Experiment, configs_folder, load_experiment
from olmo_inject.corpus.folder import CorpusDescription, Shard, write_description
from olmo_inject.corpus.from_text.sample import train_bpe
from olmo_inject.corpus.kinds import Shape
from olmo_inject.corpus.open import open_corpus
from olmo_inject.corpus.staging import open_stager
from olmo_inject.errors import UserError
from olmo_inject.training import parallel
from olmo_inject.training.checkpoints.record import write_record
from olmo_inject.training.timed_steps import TimedSteps, _reduced, time_steps
from olmo_inject.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

CONFIG = """
name: tried
folder: {folder}/run
model: {{name: tiny-8, vocab_size: 270, embedding_size: 270, max_sequence_length: 16}}
corpus: {{folder: {folder}/corpus}}
tasks: [{{name: less, kind: comparison, options: {{n_values: 6}}}}]
injections: [{{task: less, instances_per_batch: 2}}]
train: {{max_duration: 9, global_train_batch_size: 8, device_train_microbatch_size: 4, data: {{num_workers: 0}}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An experiment over a small corpus folder with a tokenizer."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    train_bpe(["a little text, and a little more of it"] * 3, 270).save(str(corpus / "tokenizer.json"))
    vocabulary = Vocabulary.load(str(corpus / "tokenizer.json"))
    ids = np.random.default_rng(0).integers(2, 270, 2000).astype(np.uint16)
    ids.tofile(corpus / "part-0.npy")
    shard = Shard(corpus / "part-0.npy", 2000, hashlib.sha256(ids.tobytes()).hexdigest())
    counted = {"vocab_size": 270, "eos_token_id": 0, "pad_token_id": 1, "documents": 0, "sources": {}}
    path = str(corpus / "tokenizer.json")
    write_description(
        CorpusDescription(corpus, path, vocabulary.fingerprint, "uint16", shards=(shard,), **counted)  # type: ignore[arg-type]
    )
    (tmp_path / "experiment.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "experiment.yaml"


@pytest.fixture
def alone() -> Iterator[torch.device]:
    yield parallel.init_process_group("cpu")
    parallel.destroy()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "olmo_inject", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)


def verdicts(result: Preflight) -> dict[str, bool]:
    return {check.name: check.passed for check in result.checks}


def test_two_real_ranks_and_nothing_left_behind(config: Path) -> None:
    before = sorted(config.parent.rglob("*"))
    done = command("preflight", str(config), "--processes", "2", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    checks = {check["name"]: check["detail"] for check in result["checks"]}
    assert list(checks) == ["devices", "all-reduce", "experiment", "corpus", "disk", "step", "memory", "checkpoint"]
    assert checks["devices"] == "2 x cpu, gloo"
    assert "every byte hashed" in checks["corpus"]
    timed = result["timed_steps"]
    assert (timed["ranks"], timed["steps"]) == (2, 3)
    assert timed["step_seconds"] > 0
    assert timed["checkpoint_bytes"] > 12 * (2 * 270 * 8 + 2 * 768)  # weights and two averages, fp32
    assert result["signal_seconds"] == signal_seconds(timed["step_seconds"], timed["checkpoint_seconds"]) > 30
    assert sorted(config.parent.rglob("*")) == before


def test_a_failure_is_status_1(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:  # as torchrun would start it
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ours = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["preflight", str(config), "--device", "cpu", "model.flash_attention=true"])
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAILED experiment model.flash_attention: needs a GPU" in said
    assert "tried: not ready" in said
    assert not dist.is_initialized()


def load(config: Path, *overrides: str) -> Experiment:
    return load_experiment(config, overrides)


def test_the_quick_form(config: Path, alone: torch.device) -> None:
    dead, alive = (config.parent / f".olmo-inject-timed-{name}" for name in ("dead", "alive"))
    for folder in (dead, alive):
        folder.mkdir()
    os.utime(dead, (0, 0))  # left by one that was killed long ago
    result = run_checks(load(config), alone, quick=True)
    assert (dead.exists(), alive.exists()) == (False, True)
    assert result.passed
    assert (result.timed_steps and result.timed_steps.steps, result.signal_seconds) == (1, None)
    assert "checkpoint" not in verdicts(result)
    assert "sampled" in next(check.detail for check in result.checks if check.name == "corpus")


@pytest.mark.parametrize(
    "schedule",
    [
        "{task: less, schedule: repetitions, times: 2}",  # in so few steps as are timed, too many for their rows
        "{task: less, schedule: repetitions, times: 1, spread: random, start: 3}",
        "{task: less, schedule: at, file: list.jsonl}",
        "{task: less, schedule: phases, phases: [{start: 6, stop: 7, instances_per_batch: 1}]}",
    ],
)
def test_the_plan_that_is_timed_is_the_whole_runs(config: Path, alone: torch.device, schedule: str) -> None:
    (config.parent / "list.jsonl").write_text(json.dumps({"step": 8}))
    schedule = schedule.replace("list.jsonl", str(config.parent / "list.jsonl"))
    config.write_text(config.read_text().replace("{task: less, instances_per_batch: 2}", schedule))
    result = run_checks(load(config), alone, quick=True)
    assert [check.detail for check in result.checks if not check.passed] == []
    assert result.timed_steps is not None
    assert result.timed_steps.steps == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (configs_folder() / "experiments").glob("*.yaml")))
def test_a_shipped_experiment_is_timed_with_its_own_plan(name: str, tmp_path: Path) -> None:
    def planned(experiment: Experiment) -> tuple[object, ...]:
        return experiment.steps, experiment.batch_size, experiment.plan_seed, experiment.tasks, experiment.injections

    experiment = load_experiment(name)
    assert planned(_reduced(experiment, tmp_path, 3)) == planned(experiment)


@pytest.mark.parametrize(("done", "timed"), [(5, 3), (7, 1), (8, 1), (9, 3)])
def test_no_more_steps_are_timed_than_are_left(config: Path, alone: torch.device, done: int, timed: int) -> None:
    experiment = load(config)
    (checkpoint := experiment.run_folder / f"step{done}").mkdir(parents=True)
    write_record(checkpoint, {"step": done, "kind": "full", "sharded": False, "world_size": 1, "files": {}})
    if done < 9:  # else its first steps are timed, since it has no others
        opened = open_corpus(str(config), None, None, Shape())
        to = config.parent / "stage"
        assert open_stager(opened.shards, opened.order, opened.source.vocabulary, range(done, 9), to).run(
            lambda n: None
        )
        experiment = load(config, f"corpus.folder={to}")
    assert time_steps(experiment, alone, steps=3, checkpoint=False).steps == timed


def test_changed_contents_of_the_corpus(config: Path, alone: torch.device) -> None:
    with (config.parent / "corpus" / "part-0.npy").open("r+b") as file:
        file.write(b"\x07\x00")
    result = run_checks(load(config), alone)
    assert verdicts(result) == {
        **dict.fromkeys(("devices", "all-reduce", "experiment", "disk"), True),
        "corpus": False,
    }
    assert "part-0.npy is damaged" in next(check.detail for check in result.checks if not check.passed)
    assert not result.passed


def test_a_staged_corpus_and_its_bytes(config: Path, alone: torch.device) -> None:
    opened = open_corpus(str(config), None, None, Shape())
    to = config.parent / "stage"
    assert open_stager(opened.shards, opened.order, opened.source.vocabulary, range(9), to).run(lambda n: None)
    found = run_checks(load(config, f"corpus.folder={to}"), alone, quick=False)
    (detail,) = [check.detail for check in found.checks if check.name == "corpus"]
    assert "72 sequences of 16 in 1 shard, every byte hashed" in detail
    with (to / "part-00000.npy").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x07\x00")
    found = run_checks(load(config, f"corpus.folder={to}"), alone)
    assert "part-00000.npy is damaged" in next(c.detail for c in found.checks if not c.passed)


def test_a_corpus_that_is_gone(config: Path, alone: torch.device) -> None:
    (config.parent / "corpus" / "part-0.npy").unlink()
    result = run_checks(load(config), alone)
    assert not verdicts(result)["corpus"]
    assert "step" not in verdicts(result)


def test_a_missing_corpus_is_said_once(config: Path, alone: torch.device) -> None:
    result = run_checks(load(config, "corpus.folder=nowhere"), alone)
    (failed,) = (check for check in result.checks if not check.passed)
    assert failed.name == "corpus"
    assert "`olmo-inject corpus sample --out nowhere`" in failed.detail


def test_a_full_disk(config: Path, alone: torch.device) -> None:
    # Full checkpoints after each of a million steps fill any disk.
    many = load(config, "train.max_duration=1000000", "train.save_interval=1", "model.d_model=512")
    result = run_checks(many, alone)
    failed = [check for check in result.checks if not check.passed]
    assert [check.name for check in failed] == ["disk"]
    assert "checkpoints need" in failed[0].detail


def test_calibration_restates_the_estimate(config: Path) -> None:
    experiment = load(config)
    timed = time_run(experiment, 1, device="cpu", steps=2)
    assert (timed.ranks, timed.steps, timed.device) == (1, 2, "cpu")
    assert not (config.parent / "run").exists()
    core = Accelerator("core", peak_flops=1e12, memory=1e9, price=1, utilization=0.3)
    reached = calibrated(experiment, core, timed).utilization
    assert reached == pytest.approx(flops_per_token(experiment.model) * 8 * 16 / timed.step_seconds / 1e12)
    with pytest.raises(UserError, match="times the peak of core"):
        calibrated(experiment, Accelerator("core", 1.0, 1e9, 1, 0.3), timed)


def test_utilization_is_shared_among_ranks(config: Path) -> None:
    core = Accelerator("core", peak_flops=1e12, memory=1e9, price=1, utilization=0.3)
    one, two = (TimedSteps(ranks, "cpu", 1, 0.5, None, None, 0, None) for ranks in (1, 2))
    assert utilization(load(config), core, one) == 2 * utilization(load(config), core, two)


def test_a_cpu_is_not_stated_as_a_gpu(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cost", str(config), "--calibrate", "--device", "cpu", "--accelerator", "h100"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "--accelerator cpu-core" in err
    assert err.count("\n") == 1
    check_device(find_accelerator("cpu-core"), "cpu")


def test_a_gpu_is_not_stated_as_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device(find_accelerator("h100"), "auto")
    with pytest.raises(UserError, match="--accelerator, or --device cpu"):
        check_device(find_accelerator("cpu-core"), "auto")


@pytest.mark.parametrize(
    ("asked", "measured", "warned"),
    [
        ("h100", "NVIDIA A100-SXM4-80GB", True),
        ("h100", "NVIDIA H100 80GB HBM3", False),
        ("a100-40gb", "NVIDIA A100-PCIE-40GB", False),
        ("mi300x", "AMD Instinct MI300X", False),
        ("cpu-core", "cpu", False),
    ],
)
def test_another_card_is_warned_of(asked: str, measured: str, warned: bool) -> None:
    timed = TimedSteps(1, measured, 1, 0.5, None, None, 0, None)
    said = another_card(find_accelerator(asked), timed)
    assert (said is not None) == warned
    assert said is None or (asked in said and measured in said)
    own = Accelerator("our-cards", peak_flops=1e15, memory=80e9, price=2.0, utilization=0.5)
    assert another_card(own, timed) is None


def test_what_cannot_be_calibrated(config: Path) -> None:
    with pytest.raises(UserError, match="--calibrate-steps: 0"):
        time_run(load(config), 1, steps=0)
    with pytest.raises(UserError, match="not divisible by 3 ranks"):
        time_run(load(config), 3, device="cpu")


def test_a_wrong_sum_is_found(alone: torch.device, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def broken(tensor: torch.Tensor, *arguments: object) -> None:
        tensor[7] = 3.0

    monkeypatch.setattr(dist, "all_reduce", broken)
    result = run_checks(load(config, "train.max_duration=1"), alone, quick=True)
    assert not verdicts(result)["all-reduce"]
    assert "1 wrong sums" in result.checks[1].detail
