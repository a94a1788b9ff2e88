"""OLMo-core 3's own Trainer on the planned stream, with one and two processes; `make test-olmo-core` runs it.

It runs the documented example, in the environment of OLMo-core: ai2-olmo is not there.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import BATCH, LENGTH, STEPS, write_stream

from olmo_inject.adapters.run import InjectedRun
from olmo_inject.audit import audit_run
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import find_checkpoints
from olmo_inject.runs.folder import prepare
from olmo_inject.utils.files import read_lines

try:
    IS_3 = version("ai2-olmo-core").startswith("3.")
except PackageNotFoundError:
    IS_3 = False
needs_3 = pytest.mark.skipif(not IS_3, reason="OLMo-core 3 is not installed here: make test-olmo-core")
EXAMPLE = Path(__file__).parents[2] / "examples" / "olmo_core_train.py"


def train(config: Path, *overrides: str, processes: int = 1, stop: int | None = None) -> str:
    """Run the example; returns what it said when it failed, or nothing."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    launcher.append(f"--nproc-per-node={processes}")
    code = [str(EXAMPLE), str(config), *overrides]
    if stop is not None:  # as an interruption would end it: after a step that no checkpoint holds
        code = [str(Path(__file__).with_name("olmo_core_stop.py")), str(stop), str(config), *overrides]
    done = subprocess.run([sys.executable, *launcher, *code], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(write_stream(folder, "olmo_core")) == ""
    return folder


def losses(folder: Path) -> list[float]:
    return [line["value"] for line in read_lines(folder / "run" / "metrics.jsonl") if line["name"] == "train/loss"]


@needs_3
def test_the_stream_is_the_plans(whole: Path) -> None:
    assert importlib.util.find_spec("olmo") is None
    audit = audit_run(whole / "run", progress=False)
    assert audit.verdict == "identical", audit.differences
    assert audit.labels == {"less": 20, "plus": 6}
    assert len(losses(whole)) == STEPS


@needs_3
def test_a_resume_is_exact_and_another_run_is_refused(whole: Path, tmp_path: Path) -> None:
    config = write_stream(tmp_path, "olmo_core")
    assert train(config, stop=6) == ""
    assert len(list(read_lines(tmp_path / "run" / "evidence.jsonl"))) == 6
    said = train(config, "injections.0.instances_per_batch=2")
    assert "is a run of another experiment: injections.0.instances_per_batch" in said
    assert train(config) == ""
    for name in ("evidence.jsonl", "metrics.jsonl", "saved.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()


@needs_3
def test_two_processes_are_given_the_same_stream(whole: Path, tmp_path: Path) -> None:
    assert train(write_stream(tmp_path, "olmo_core"), processes=2) == ""
    assert audit_run(tmp_path / "run", progress=False).verdict == "identical"
    assert (tmp_path / "run" / "evidence.jsonl").read_bytes() == (whole / "run" / "evidence.jsonl").read_bytes()
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-4)


@needs_3
def test_its_weights_are_read_by_transformers(whole: Path) -> None:
    """OLMo-core's own conversion; the model that it writes has the loss that was measured."""
    from transformers import AutoModelForCausalLM

    saved = find_checkpoints([whole / "run"]).checkpoints
    assert [each.step for each in saved] == [0, 4, STEPS]
    model = AutoModelForCausalLM.from_pretrained(saved[-1].path).eval()
    assert model.config.model_type == "olmo2"
    run = InjectedRun.open(whole / "stream.yaml")
    task = run.data.tasks[0]
    rows = torch.from_numpy(task.instances.table()[task.test_ids].astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=rows[:, :2]).logits[:, -1]
    loss = torch.nn.functional.cross_entropy(logits.float(), rows[:, 2]).item()
    measured = [
        line["value"]
        for line in read_lines(whole / "run" / "metrics.jsonl")
        if (line["step"], line["name"]) == (STEPS, "eval/less/test/loss")
    ]
    assert loss == pytest.approx(measured[0], abs=1e-4)


@needs_3
@pytest.mark.parametrize("kind", ["fsl", "composable"])
def test_another_loaders_rows_are_injected_at_any_world_size_after_a_resume_and_over_epochs(
    kind: str, tmp_path: Path
) -> None:
    from olmo_core.data import (
        DataCollator,
        NumpyDatasetDType,
        NumpyFSLDataLoader,
        NumpyFSLDatasetConfig,
        TokenizerConfig,
    )
    from olmo_core.data.composable import ComposableDataLoader, ConcatAndChunkInstanceSource, InMemoryTokenSource

    from olmo_inject.adapters.olmo_core import InjectingDataLoader

    rng = np.random.default_rng(0)
    theirs_tokens = rng.integers(2, 128, 27 * LENGTH).astype(np.uint16)  # 4 batches an epoch
    theirs_tokens.tofile(tmp_path / "theirs.npy")
    run = InjectedRun.open(write_stream(tmp_path, "olmo_core", own_host=True))
    tokenizer = TokenizerConfig(vocab_size=128, eos_token_id=0, pad_token_id=1)

    def loader(rank: int, world: int) -> NumpyFSLDataLoader | ComposableDataLoader:
        common = {
            "collator": DataCollator(pad_token_id=1),
            "global_batch_size": BATCH * LENGTH,
            "work_dir": tmp_path,
            "dp_world_size": world,
            "dp_rank": rank,
            "fs_local_rank": rank,
        }
        if kind == "composable":
            tokens = InMemoryTokenSource(theirs_tokens, work_dir=tmp_path)
            rows = ConcatAndChunkInstanceSource(tokens, sequence_length=LENGTH, work_dir=tmp_path)
            return ComposableDataLoader(rows, tokenizer=tokenizer, seed=3, display_source_visualization=False, **common)
        dataset = NumpyFSLDatasetConfig(
            paths=[str(tmp_path / "theirs.npy")],
            sequence_length=LENGTH,
            tokenizer=tokenizer,
            dtype=NumpyDatasetDType.uint16,
            work_dir=str(tmp_path),
        ).build()
        return NumpyFSLDataLoader(dataset, **common)

    def epochs(loaders: list, state: dict | None = None) -> list[torch.Tensor]:
        """Batches of two epochs, the rows of the ranks put together in their order."""
        steps = []
        for each in loaders:
            if state is not None:
                each.load_state_dict(state)
        for epoch in (1, 2):
            if state is not None and epoch < state["epoch"]:
                continue
            for each in loaders:
                each.reshuffle(epoch, in_memory=True)
            for parts in zip(*loaders, strict=True):
                whole = torch.empty(BATCH, LENGTH, dtype=torch.int64)
                for rank, part in enumerate(parts):
                    whole[rank :: len(loaders)] = part["input_ids"]
                    if "index" in part and isinstance(loaders[0], InjectingDataLoader):
                        at = part["index"].numpy()
                        assert at.tolist() == list(range(int(at[0]), int(at[0]) + BATCH, len(loaders)))
                steps.append(whole)
            for each in loaders:
                each.reset()
        return steps

    host = epochs([loader(0, 1)])
    assert len(host) == STEPS
    for step, tokens in enumerate(host):
        run.splice(tokens.numpy(), step, np.arange(BATCH))
    for world in (1, 2, 3):
        injected = epochs([InjectingDataLoader(loader(rank, world), run) for rank in range(world)])
        assert all(torch.equal(a, b) for a, b in zip(injected, host, strict=True)), world
    begun = InjectingDataLoader(loader(0, 1), run)
    begun.reshuffle(1, in_memory=True)
    for _, _batch in zip(range(3), begun, strict=False):
        state = begun.state_dict()
    rest = epochs([InjectingDataLoader(loader(rank, 2), run) for rank in range(2)], state)
    assert all(torch.equal(a, b) for a, b in zip(rest, host[3:], strict=True))
    with pytest.raises(UserError, match="batch_size: 6, but the trainer's global batch has 12 rows"):
        begun.global_batch_size = 12 * LENGTH  # as OLMo-core's BatchSizeSchedulerCallback changes it
    assert begun.global_batch_size == BATCH * LENGTH
    theirs = loader(0, 1)
    theirs._global_batch_size = 12 * LENGTH
    with pytest.raises(UserError, match="batch_size: 6, but the trainer's global batch has 12 rows"):
        InjectingDataLoader(theirs, run)


def test_another_olmo_core_is_refused_in_one_line() -> None:
    if IS_3:
        pytest.skip("OLMo-core 3 is installed here")
    with pytest.raises(UserError, match=r"OLMo-core 3 is needed, and \S+ is installed: ai2-olmo 0\.6\.0 pins another"):
        import olmo_inject.adapters.olmo_core  # noqa: F401


def test_checkpoints_that_are_not_converted_are_named(tmp_path: Path) -> None:
    run = InjectedRun.open(write_stream(tmp_path, "olmo_core"))
    prepare(run.experiment, run.data)
    saved = tmp_path / "run" / "checkpoints" / "step4"
    (saved / "model_and_optim").mkdir(parents=True)
    (saved / "config.json").write_text("{}")  # of OLMo-core's ConfigSaverCallback, and not of transformers
    advice = "convert OLMo-core's checkpoints with convert_checkpoints of olmo_inject.adapters.olmo_core"
    for steps in ("last", "4"):
        assert find_checkpoints([tmp_path / "run"], steps).missing == [
            f"{tmp_path}/run has no checkpoint that can be read: {advice}"
        ]
    with pytest.raises(UserError, match=f"step4 is not in a format of transformers or ai2-olmo: {advice}"):
        find_checkpoints([saved])
