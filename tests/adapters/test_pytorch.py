"""A loop of one's own, as docs/trainers.md has it, and rows that somebody else loads."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from streams import BATCH, LENGTH, STEPS, VOCAB, write_stream

from analysis.read.runs import read_run
from olmo_inject.adapters.recorder import Recorder, weights_sum
from olmo_inject.adapters.run import InjectedRun, RankBatches
from olmo_inject.adapters.torchtitan import TitanDataLoader
from olmo_inject.audit import audit_run
from olmo_inject.errors import UserError

pytestmark = pytest.mark.slow
pytest.importorskip("transformers", reason="the extra transformers is not installed; the example's model needs it")

EXAMPLES = Path(__file__).parents[2] / "examples"
train = runpy.run_path(str(EXAMPLES / "pytorch_loop.py"))["train"]


@pytest.mark.parametrize(
    "given", [("pytorch_loop", ()), ("pytorch_loop", ("my.yaml", "9")), ("transformers_train", ())]
)
def test_an_example_says_what_it_takes(
    given: tuple[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, arguments = given
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"olmo-inject: usage: python examples/{name}.py my.yaml")
    assert said.count("\n") == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_a_checksum_of_weights_of_any_size(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(2, 2, dtype=dtype)
    model.scale = torch.nn.Parameter(torch.ones((), dtype=dtype))
    before = weights_sum(model)
    assert weights_sum(model) == before
    for parameter in model.parameters():
        with torch.no_grad():
            parameter += 1
        assert weights_sum(model) != before
        before = weights_sum(model)


def test_a_known_checksum_of_weights() -> None:
    """Checkpoints that were saved are compared with it."""
    model = torch.nn.Linear(2, 3)
    torch.nn.init.ones_(model.weight)
    torch.nn.init.ones_(model.bias)
    assert weights_sum(model) == f"{(6 + 2 * 3) * 0x3F800000:016x}"


def test_the_documented_loop_is_given_the_plans_stream_and_resumes_exactly(tmp_path: Path) -> None:
    whole, cut = write_stream(tmp_path / "whole", "torch"), write_stream(tmp_path / "cut", "torch")
    train(str(whole), save_every=4)
    audit = audit_run(tmp_path / "whole" / "run", progress=False)
    assert audit.verdict == "identical", audit.differences
    assert audit.labels == {"less": 20, "plus": 6}
    train(str(cut), save_every=4, stop=6)
    assert audit_run(tmp_path / "cut" / "run", progress=False).verdict == "identical so far (6 of 8 steps)"
    train(str(cut), save_every=4)
    for name in ("evidence.jsonl", "metrics.jsonl", "saved.json"):
        assert (tmp_path / "cut" / "run" / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
    assert read_run(tmp_path / "cut" / "run").finished


def test_rows_that_somebody_else_loads(tmp_path: Path) -> None:
    """What is injected into them is recomputed and compared; a row that lost its instance is found."""
    run = InjectedRun.open(write_stream(tmp_path, "own", own_host=True))
    with pytest.raises(UserError, match="corpus: none of name, folder and paths is set, so there are no rows"):
        _ = run.dataset
    for folder, broken in (("run", False), ("broken", True)):
        run = InjectedRun.open(tmp_path / "stream.yaml", [f"folder={tmp_path}/{folder}"])
        _train_own_rows(run, broken)
        audit = audit_run(tmp_path / folder, progress=False)
        assert audit.passed is not broken
        if broken:
            assert "step 0: tokens injected into what the model was given" in audit.differences[0]
        else:
            assert audit.verdict == "identical in what is injected"
    before = (tmp_path / "run" / "evidence.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"run has been trained to step {STEPS}: load its checkpoint to continue"):
        _train_own_rows(InjectedRun.open(tmp_path / "stream.yaml"), broken=False)
    assert (tmp_path / "run" / "evidence.jsonl").read_bytes() == before


def _train_own_rows(run: InjectedRun, broken: bool) -> None:
    torch.manual_seed(1)
    model: Any = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 8), torch.nn.Linear(8, VOCAB))
    rng = np.random.default_rng(1)
    with Recorder(run) as recorder:
        recorder.begin(model, lambda rows: model(rows)[:, -1])
        for step in range(STEPS):
            tokens, rows = rng.integers(2, VOCAB, (BATCH, LENGTH)), np.arange(BATCH)
            run.splice(tokens, step, rows)
            if broken and step == 0:
                tokens[run.plan.at(0).rows[0], 2] = 1
            batch = torch.from_numpy(tokens)
            logits = model(batch)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
            recorder.forward(torch.from_numpy(step * BATCH + rows), batch, batch, logits, loss)
            recorder.end_step()


def test_the_order_the_rows_and_the_folder_are_checked(tmp_path: Path) -> None:
    run = InjectedRun.open(write_stream(tmp_path, "torch"))
    model: Any = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 8), torch.nn.Linear(8, VOCAB))
    with Recorder(run) as recorder:
        recorder.begin(model, lambda rows: model(rows)[:, -1])
        batch = run.dataset.batch([*range(5), 7])
        given = batch["index"], batch["input_ids"], batch["labels"], model(batch["input_ids"]), 0.0
        with pytest.raises(UserError, match="step 0: the loader gave a row of step 1: read positions in order"):
            recorder.forward(*given)
        recorder.forward(*(value[:5] if isinstance(value, torch.Tensor) else value for value in given))
        with pytest.raises(UserError, match="step 0: the model was given 5 rows, the plan's batch has 6"):
            recorder.end_step()
        with pytest.raises(UserError, match="is in use: another process is training this run"), Recorder(run) as other:
            other.begin(model, lambda rows: model(rows)[:, -1])
    with pytest.raises(UserError, match="has evidence up to step 0, and the checkpoint is of step 3"):
        Recorder(run).begin(model, lambda rows: model(rows)[:, -1], step=3)
    with pytest.raises(UserError, match="batch_size: a batch of 6 rows is not divisible by 4 ranks"):
        RankBatches(run, 0, 4)


def test_processes_share_a_step(tmp_path: Path) -> None:
    run = InjectedRun.open(write_stream(tmp_path, "torch"))
    shares = [list(RankBatches(run, rank, 3, first_step=2)) for rank in range(3)]
    assert [sorted(p for part in parts for p in part) for parts in zip(*shares, strict=True)] == [
        list(range(step * BATCH, (step + 1) * BATCH)) for step in range(2, STEPS)
    ]


def test_the_data_source_for_torchtitan(tmp_path: Path) -> None:
    """Its batches, in the order in which gradient accumulation takes them, and from a state that other ranks saved."""
    run = InjectedRun.open(write_stream(tmp_path, "torchtitan"))
    batches = [list(TitanDataLoader(run, rank, 2, 1, LENGTH)) for rank in range(2)]
    for step in range(STEPS):
        expected = run.dataset.batch(range(step * BATCH, (step + 1) * BATCH))
        for rank, mine in enumerate(batches):
            taken = mine[3 * step : 3 * step + 3]
            tokens, labels = torch.cat([x["input"] for x, _ in taken]), torch.cat([y for _, y in taken])
            assert torch.equal(tokens, expected["input_ids"][rank::2])
            assert torch.equal(labels[:, :-1], expected["labels"][rank::2, 1:])
            assert (labels[:, -1] == -100).all()
    reading = TitanDataLoader(run, 1, 2, 1, LENGTH)
    for _ in zip(range(9), reading, strict=False):
        pass
    state = reading.state_dict()
    assert state == {"rows_read": 18}
    rest = [row["input_ids"] for row in map(run.dataset.__getitem__, range(18, STEPS * BATCH))]
    for world in (1, 2, 3):
        for rank in range(world):
            resumed = TitanDataLoader(run, rank, world, 1, LENGTH)
            resumed.load_state_dict(state)
            assert [x["input"][0].tolist() for x, _ in resumed] == [row.tolist() for row in rest[rank::world]]
    six = TitanDataLoader(run, 0, 6, 1, LENGTH)
    with pytest.raises(UserError, match="10 rows were read, which 6 ranks do not share evenly"):
        six.load_state_dict({"rows_read": 10})
    with pytest.raises(UserError, match="local_batch_size: 2 does not divide a rank's 3 rows of a step"):
        TitanDataLoader(run, 0, 2, 2, LENGTH)
    with pytest.raises(UserError, match="sequence_length: 16, but torchtitan's seq_len is 32"):
        TitanDataLoader(run, 0, 2, 1, 32)


def test_a_model_with_fewer_ids_is_refused(tmp_path: Path) -> None:
    run = InjectedRun.open(write_stream(tmp_path, "torch"))
    model: Any = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="the model has 64 ids"):
        Recorder(run).begin(model, lambda rows: model(rows), described={"vocab_size": 64})
    assert not (tmp_path / "run").exists()
