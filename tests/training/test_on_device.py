"""Everything that runs on a GPU, small, on each device that there is: `pytest -m cuda` proves a card in minutes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ranks import differing, numbers, tiny_config
from runs import same_bits, series, write_experiment

from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.training import parallel, trainer
from olmo_inject.training.run import train

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param(
        "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
    ),
]
WAYS = {  # strategy and precision; FSDP of one rank keeps the weights whole
    "ddp-fp32": ["train.precision=fp32"],
    "ddp-bf16": ["train.precision=amp_bf16"],
    "fsdp-bf16": [
        "train.distributed_strategy=fsdp",
        "train.fsdp.precision=mixed",
        "train.fsdp.wrapping_strategy=by_block",
        "train.precision=amp_bf16",
    ],
}
MEASURED = ["checkpoints.also.steps=[0]", "gradients.at.steps=[1]", "gradients.neurons=4"]


@contextmanager
def group(device: str) -> Iterator[torch.device]:
    """A process group of one."""
    chosen = parallel.init_process_group(device)
    try:
        yield chosen
    finally:
        parallel.destroy()


def trained(path: Path, device: str, run: Path, *overrides: str) -> Path:
    with group(device) as chosen:
        assert "trained" in train(load_experiment(path, [f"folder={run}", *MEASURED, *overrides]), chosen)
    return run


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=WAYS)
def run(request: pytest.FixtureRequest, device: str, path: Path) -> Path:
    return trained(path, device, path.parent / f"{device}-{request.param}", *WAYS[request.param])


def test_first_weights_are_the_same_under_ddp_and_fsdp(device: str) -> None:
    found = []
    with group(device) as chosen:
        for strategy in ("ddp", "fsdp"):
            config = tiny_config(strategy)
            config.model.init_cutoff_factor = 3.0
            found.append(numbers(parallel.build_model(config, chosen)[1]))
    assert differing(*found) == []


def test_training_learns_is_measured_and_given_what_was_planned(run: Path) -> None:
    losses = series(run, "train/loss")
    assert len(losses) == 12
    assert np.isfinite(list(losses.values())).all()
    assert losses[11] < losses[0]
    assert set(series(run, "eval/less/test/accuracy")) == {0, 4, 8, 12}
    assert list(series(run, "gradient/less/cos_batch")) == [1]
    audit = audit_run(run, progress=False)
    assert audit.passed, audit.differences


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_goes_on_where_it_stopped(device: str, path: Path, tmp_path: Path, way: str) -> None:
    """To the bit on a CPU. A card may sum in another order each time, so there the rows are, and the rest nearly."""
    if device == "cpu" and way != "ddp-fp32":
        pytest.skip("other tests resume on a CPU under each strategy")
    whole = trained(path, device, tmp_path / "whole", *WAYS[way], "train.max_duration=6")
    parts = tmp_path / "parts"
    for steps in (4, 6):
        trained(path, device, parts, *WAYS[way], f"train.max_duration={steps}")
    if device == "cpu":
        assert same_bits(whole, parts, 6)
    one, other = (
        [line.split('"targets"')[0] for line in (folder / "evidence.jsonl").read_text().splitlines()]
        for folder in (whole, parts)
    )
    assert one == other
    losses = [list(series(folder, "train/loss").values()) for folder in (whole, parts)]
    np.testing.assert_allclose(*losses, rtol=1e-2)


def test_the_loss_in_parts_trains_as_ai2_olmos(device: str, path: Path, tmp_path: Path) -> None:
    found = []
    for devices in ((), (device,)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "LOSS_IN_PARTS_ON", devices)
            found.append(series(trained(path, device, tmp_path / f"{devices}", *WAYS["ddp-fp32"]), "train/loss"))
    np.testing.assert_allclose(list(found[0].values()), list(found[1].values()), rtol=1e-4)


@pytest.fixture(scope="module")
def plain(device: str, path: Path) -> Path:
    """A run in fp32 under DDP; not to be changed."""
    run = path.parent / f"{device}-ddp-fp32"
    return run if run.exists() else trained(path, device, run, *WAYS["ddp-fp32"])


def ends_well(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("features", ["--components", "4"]),
        ("patching", ["--pairs", "8"]),
        ("gradients", ["--neurons", "4"]),
        ("das", ["--updates", "2", "--pairs", "8", "--dimensions", "1"]),
    ],
)
def test_an_analysis_gives_what_it_gives_on_a_cpu(
    device: str, plain: Path, tmp_path: Path, method: str, options: list[str]
) -> None:
    if device == "cpu" and method == "das":
        pytest.skip("takes minutes, and other tests search on a CPU")
    tables = []
    for where in dict.fromkeys((device, "cpu")):
        run = shutil.copytree(plain, tmp_path / where)  # results are kept beside the run
        ends_well("analyze", method, run, "--steps", 8, *options, "--device", where, "--out", run / "tables")
        found = sorted((run / "tables").glob("*.parquet"))
        tables.append({path.name: pd.read_parquet(path).select_dtypes("number") for path in found})
    assert any(len(table) for table in tables[0].values())
    if method != "das":  # whose search may take another way
        for name, table in tables[0].items():
            pd.testing.assert_frame_equal(table, tables[-1][name], rtol=1e-2, atol=1e-3, check_dtype=False)


def test_a_checkpoint_is_evaluated(device: str, plain: Path, tmp_path: Path) -> None:
    found = []
    for where in dict.fromkeys((device, "cpu")):
        ends_well("evaluate", plain / "step12", "--device", where, "--parquet", tmp_path / f"{where}.parquet")
        found.append(pd.read_parquet(tmp_path / f"{where}.parquet")["loss"])
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-4)
