"""The command line: what a user's mistake looks like, and what each verb prints."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from made import small_experiment

from olmo_inject.cli import app, main
from olmo_inject.config import load_experiment
from olmo_inject.data import build_plan


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return small_experiment(tmp_path)


def fails(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is a mistake: status 2, nothing on standard output, one line that is returned."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("olmo-inject: ")
    return lines[0]


def succeeds(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trian.seed=1", "trian"),
        ("train.optimizer.learning_rte=1", "train.optimizer.learning_rte"),
        ("train.max_duration=2ep", "epochs are not accepted"),
        ("train.max_duration=0", "positive number of steps"),
        ("train.global_train_batch_size=7", "not divisible by 2 ranks"),
        ("train.global_train_batch_size=-8", "train.global_train_batch_size: -8"),
        ("model.max_sequence_length=4", "max_sequence_length"),
        ("model.eos_token_id=3", "model.eos_token_id"),
        ("train.data.generate_doc_lengths=true", "document masking"),
        ("train.save_overwrite=true", "--overwrite"),
        ("corpus.dtype=uint32", "truncated|beyond the vocabulary|every other token"),
        ("corpus.dtype=float16", "float16"),
        ("train.optimizer.learning_rate=-1", "train.optimizer.learning_rate: -1.0 must be above 0"),
        ("train.data.num_workers=-1", "train.data.num_workers: -1 must be at least 0"),
        ("train.scheduler.t_warmup=-5", "train.scheduler.t_warmup"),
        ("model.mlp_ratio=0", "model.mlp_ratio"),
        ("corpus.seed=-1", "corpus.seed: -1 must be at least 0"),
        ("corpus.vocab_size=64", "beyond the vocabulary|vocabulary"),
        ("corpus.paths=[/nowhere.npy]", "/nowhere.npy"),
        ("start_from=/nowhere", "/nowhere"),
        ("model=9B", "9B"),
        ("nonsense", "is not key=value"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    config: Path, capfd: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    before = sorted(config.parent.rglob("*"))
    message = fails(capfd, "train", config, change, "--processes", 2)
    assert any(part in message for part in said.split("|")), message
    assert sorted(config.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?; see `"),
        (["plan"], "Missing argument 'config'; see `"),
        (["train", "demo", "--processes", "two"], "--processes"),
        (["corpus", "show", "x", "--rowz", "1"], "corpus show --help`"),
    ],
)
def test_what_is_typed_wrong_is_one_line(capfd: pytest.CaptureFixture[str], typed: list[str], said: str) -> None:
    assert said in fails(capfd, *typed)


def test_a_batch_that_could_overflow_is_refused(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("1/2", "9"))
    assert "more than its 8 rows" in fails(capfd, "plan", config)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_foreign_checkpoint_cannot_run_code(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / name).write_bytes(pickle.dumps(Trap()))
    fails(capfd, "train", config, f"start_from={foreign}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_before_anything_starts(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    succeeds("train", config, "train.max_duration=4")
    weights = tmp_path / "run/step4/model.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    capfd.readouterr()
    assert str(tmp_path / "run/step4") in fails(capfd, "train", config)


@pytest.mark.slow
def test_a_full_disk_is_one_line(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(SystemExit) as ended:
            main(["train", str(config), f"folder={disk}/run"])
        assert ended.value.code == 2
        assert not list((disk / "run").glob("step*"))
        assert not list((disk / "run").glob("**/*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_weights_and_biases_without_a_key_is_one_line(config: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "olmo_inject", "train", str(config), "train.wandb.project=p", "--processes", "1"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("olmo-inject: train.wandb: ")


def test_plan_in_words(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    succeeds("plan", config)
    out, _ = capfd.readouterr()
    for part in ("20 steps of 8 x 16 tokens", "1/2", "0.0625", "0.003906", "Step 1: 1 of 8 rows injected"):
        assert part in out


def test_plan_of_one_step_is_one_json_document(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    succeeds("plan", config, "--step", 7, "--json")
    record = json.loads(capfd.readouterr().out)
    what = build_plan(load_experiment(config))
    injections = what.plan.at(7)
    assert [entry["row"] for entry in record["injections"]] == injections.rows.tolist() != []
    assert [entry["tokens"] for entry in record["injections"]] == what.plan.tokens(injections).tolist()
    assert [entry["piece"] for entry in record["injections"]] == injections.piece.tolist()
    assert record["injections"][0]["position"] == 7 * 8 + record["injections"][0]["row"]


def test_a_step_outside_the_run_is_refused(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "0..19" in fails(capfd, "plan", config, "--step", 20)


def test_plan_as_parquet_holds_every_injection(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second replaces what the first wrote
        succeeds("plan", config, "--parquet", tmp_path / "plan.parquet")
    table = pd.read_parquet(tmp_path / "plan.parquet")
    plan = build_plan(load_experiment(config)).plan
    expected = [
        (step, row, step * 8 + row, "less", instance, *tokens)
        for step in range(20)
        for row, instance, tokens in zip(
            plan.at(step).rows.tolist(),
            plan.at(step).instance.tolist(),
            plan.tokens(plan.at(step)).tolist(),
            strict=True,
        )
    ]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert len(expected) == 10


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_list_may_have_gaps_as_pandas_writes_them(config: Path, tmp_path: Path, kind: str) -> None:
    instance = int(build_plan(load_experiment(config)).tasks[0].train_ids[0])
    table = pd.DataFrame({"step": [1, 2, 3], "row": [1, None, 4], "instance": [None, None, instance]})
    assert set(table.dtypes[1:]) == {np.dtype(float)}
    file = tmp_path / f"list.{kind}"
    _ = table.to_parquet(file) if kind == "parquet" else table.to_json(file, orient="records", lines=True)
    plan = build_plan(load_experiment(config, [f"injections=[{{task: less, schedule: at, file: {file}}}]"])).plan
    assert [plan.at(step).rows.tolist() for step in (1, 3)] == [[1], [4]]
    assert len(plan.at(2).rows) == 1
    assert plan.at(3).instance.tolist() == [instance]


def test_too_little_memory_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo_inject.cli.app", lambda *_, **__: np.empty(1 << 57))
    assert "not enough memory: Unable to allocate 1.00 EiB" in fails(capfd, "plan", "demo")


def test_audit_of_what_is_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "is not a run folder" in fails(capfd, "audit", tmp_path)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    succeeds("--version")
    assert capfd.readouterr().out == f"olmo-inject {importlib.metadata.version('olmo-inject')}\n"


def test_every_command_explains_itself(capfd: pytest.CaptureFixture[str]) -> None:
    succeeds("--help")
    listed = capfd.readouterr().out
    for command in ("plan", "train", "audit", "demo", "report", "corpus"):
        assert command in listed
        succeeds(command, "--help")
        assert len(capfd.readouterr().out.splitlines()) > 5


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group of typer's, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


def test_every_command_has_an_example_that_it_understands() -> None:
    every = list(commands(typer.main.get_command(app)))
    assert len(every) > 30
    for names, command in every:
        example = re.search("Example: `olmo-inject ([^`]*)`", command.help)
        assert example is not None, names
        words = shlex.split(example[1])
        assert tuple(words[: len(names)]) == names
        command.make_context(names[-1], words[len(names) :])
