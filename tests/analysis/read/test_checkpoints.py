"""Which weights an analysis takes, how they are loaded whatever they are, and results that are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from copies import Copies
from olmo.model import OLMo
from ranks import alone
from runs import train_on_rank, write_experiment
from transformers import GPT2Config, GPT2LMHeadModel, OlmoForCausalLM, PreTrainedModel

from analysis.read.checkpoints import StoredModel, identity, select_checkpoints
from analysis.read.runs import read_run
from analysis.read.skipped import Skipped
from analysis.read.store import Method, Report, analyze, kept, kept_results
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import find_checkpoints, select_steps
from olmo_inject.training.checkpoints.load import load_model
from olmo_inject.training.checkpoints.weights import load_weights
from olmo_inject.training.olmo_config import model_config
from olmo_inject.training.parallel import choose_device

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "chosen", "missing"),
    [
        ("last", [30], []),
        ("all", [0, 5, 10, 20, 30], []),
        ("5", [5], []),
        ("5, 7,20", [5, 20], [7]),
        ("5:20", [5, 10], []),
        (":", [0, 5, 10, 20, 30], []),
        ("10:", [10, 20, 30], []),
        ("0::10", [0, 10, 20, 30], []),
        ("100:200", [], []),
        ("0,last", [0, 30], []),
    ],
)
def test_steps(text: str, chosen: list[int], missing: list[int]) -> None:
    assert select_steps(text, [0, 5, 10, 20, 30]) == (chosen, missing)


@pytest.mark.parametrize("text", ["", "first", "-1", "1:2:0", "1:2:3:4", "1,,2", "1.5"])
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--steps: .* is not a step, a range"):
        select_steps(text, [0])


def test_runs_folders_of_runs_and_checkpoints(trained: Path, copies: Copies) -> None:
    copies.make("first")
    copies.make("second")
    skipped = Skipped()
    found = select_checkpoints([trained, copies.folder], "0:9,12", skipped)
    assert [(s.run and s.run.name, s.step) for s in found] == [
        (n, s) for n in ("first", "run", "second") for s in (4, 8, 12)
    ]
    assert found[0].folder == copies.folder / "first" / "analysis"
    assert not skipped.messages
    direct = select_checkpoints([trained / "step8"], "last", skipped)
    assert [s.path for s in direct] == [trained / "step8"]
    assert direct[0].run is not None


def test_missing_steps_are_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped()
    assert [s.step for s in select_checkpoints([trained], "4,5", skipped)] == [4]
    assert skipped.messages == [f"{trained} has no checkpoint step5: it has step4, step8, step12"]
    assert not select_checkpoints([trained], "5:7", skipped)
    assert skipped.messages[1] == f"{trained} has no checkpoint in --steps 5:7: it has step4, step8, step12"
    assert capsys.readouterr().err.count("olmo-inject: left out: ") == 2


def test_a_checkpoint_without_its_record_is_not_one(copies: Copies) -> None:
    run = copies.make("cut-off")
    *before, last = find_checkpoints([run]).checkpoints
    (last.path / "checkpoint.json").unlink()  # its weights are there, as in a copy that was cut off
    selection = find_checkpoints([run], "last")
    assert selection.checkpoints == before[-1:]
    assert selection.missing == [f"{last.path} is not a complete checkpoint: it has no checkpoint.json"]


def test_what_cannot_be_analyzed(trained: Path, tmp_path: Path) -> None:
    skipped = Skipped()
    for paths, message in (
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path], "is neither a checkpoint nor a run folder"),
        ([trained, trained.parent / "." / "run"], "is given twice"),
    ):
        with pytest.raises(UserError, match=message):
            select_checkpoints(paths, "last", skipped)
    shutil.copytree(trained / "step8", tmp_path / "alone")
    with pytest.raises(UserError, match="is a model and not a run: .* with --tasks"):
        select_checkpoints([tmp_path / "alone"], "last", skipped)
    [checkpoint] = select_checkpoints([tmp_path / "alone"], "last", skipped, [trained / "tasks" / "less.json"])
    assert (checkpoint.step, checkpoint.run, [task.name for task in checkpoint.tasks]) == (None, None, ["less"])


def test_every_kind_of_checkpoint_loads_the_same(trained: Path, tmp_path: Path) -> None:
    with alone():
        path = write_experiment(tmp_path)
        assert "trained" in train_on_rank(
            path, "checkpoints.also.steps=[6]", "checkpoints.weights_only=true", "train.distributed_strategy=fsdp"
        )
    run = read_run(tmp_path / "run")
    assert (tmp_path / "run" / "step12" / "model" / "metadata.json").is_file()
    assert (tmp_path / "run" / "step6" / "model.safetensors").is_file()
    assert (trained / "step12" / "model.pt").is_file()
    tokens = torch.arange(32).reshape(2, 16)
    for folder in (trained / "step12", tmp_path / "run" / "step12", tmp_path / "run" / "step6"):
        ours = OLMo(model_config(run.experiment.model))
        ours.load_state_dict(load_weights(folder, model_config(run.experiment.model)))
        model = load_model(folder)
        assert isinstance(model, OlmoForCausalLM)
        assert not model.training
        with torch.no_grad():
            torch.testing.assert_close(model(tokens).logits, ours.eval()(tokens).logits, rtol=1e-5, atol=1e-6)
        model.save_pretrained(tmp_path / folder.parent.name / "hf" / folder.name)
        again = load_model(tmp_path / folder.parent.name / "hf" / folder.name)
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_other_transformers_models(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50, n_positions=8))
    model.save_pretrained(tmp_path / "gpt2")
    assert isinstance(load_model(tmp_path / "gpt2"), GPT2LMHeadModel)
    (tmp_path / "gpt2" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as a transformers model"):
        load_model(tmp_path / "gpt2")


def test_identity_is_of_the_weights(trained: Path, tmp_path: Path) -> None:
    assert identity(trained / "step4") != identity(trained / "step8")
    copy = Path(shutil.copytree(trained / "step8", tmp_path / "copy"))
    assert identity(copy) == identity(trained / "step8")
    (copy / "checkpoint.json").unlink()
    before = identity(copy)
    (copy / "train.pt").unlink()
    assert identity(copy) == before
    (copy / "model.pt").write_bytes(b"other")
    assert identity(copy) != before
    (copy / "model.pt").unlink()
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        identity(copy)


def width(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> dict[str, pd.DataFrame]:
    computed.append(checkpoint.name)
    return {"widths": pd.DataFrame({"width": [model.config.hidden_size]}), "nothing": pd.DataFrame({"a": [1, 2]})}


computed: list[str] = []


def test_adding_a_checkpoint_computes_only_it(copies: Copies) -> None:
    run = copies.make("kept")
    method, skipped = Method("width", width, {"at": 1}), Skipped()
    shutil.move(run / "step12", copies.folder / "away")
    computed.clear()
    first = analyze(select_checkpoints([run], "all", skipped), method, CPU, skipped)
    shutil.move(copies.folder / "away", run / "step12")
    second = analyze(select_checkpoints([run], "all", skipped), method, CPU, skipped)
    assert computed == ["kept step4", "kept step8", "kept step12"]
    assert list(first["widths"]["step"]) == [4, 8]
    assert second["widths"].to_dict("list") == {
        "run": ["kept"] * 3,
        "folder": [str(run)] * 3,
        "model": ["tiny-8"] * 3,
        "step": [4, 8, 12],
        "width": [8, 8, 8],
    }
    assert len(second["nothing"]) == 6
    for changed in (Method("width", width, {"at": 1}, version=2), Method("width", width, {"at": 2})):
        computed.clear()
        analyze(select_checkpoints([run], "last", skipped), changed, CPU, skipped)
        assert computed == ["kept step12"]
    shown = kept_results([read_run(run)], "width")  # what was asked for last, and computed at step 12 alone
    assert list(shown.tables["widths"]["step"]) == [12]
    assert (shown.options, shown.left_out) == ({"at": 2}, 2)
    analyze(select_checkpoints([run], "all", skipped), method, CPU, skipped)  # read, and so asked for again
    assert list(kept_results([read_run(run)], "width").tables["widths"]["step"]) == [4, 8, 12]
    (run / "analysis" / "width").rename(run / "analysis" / "away")
    assert kept_results([read_run(run)], "width").tables == {}
    (run / "analysis" / "away").rename(run / "analysis" / "width")
    assert [about["step"] for about, _ in kept(run / "analysis", "width")] == [4, 8, 12]
    assert [about["step"] for about, _ in kept(run / "analysis", "width", 2)] == [12]
    assert not skipped.messages


def test_a_damaged_checkpoint_is_told_and_skipped(copies: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    run = copies.make("spoilt")
    with (run / "step8" / "model.pt").open("r+b") as file:
        file.seek(2000)
        file.write(b"spoilt")
    (run / "step4" / "checkpoint.json").unlink()
    (run / "step4" / "model.pt").unlink()
    skipped = Skipped()
    tables = analyze(select_checkpoints([run], "all", skipped), Method("width", width), CPU, skipped)
    assert list(tables["widths"]["step"]) == [12]
    assert len(skipped.messages) == 2
    assert "step4 is not a complete checkpoint" in skipped.messages[0]
    assert "step8 is damaged: model.pt is not as it was written" in skipped.messages[1]
    assert "left out" in capsys.readouterr().err


def test_kept_results_do_not_hide_a_checkpoint_cut_short(copies: Copies) -> None:
    run, skipped = copies.make("short"), Skipped()
    method = Method("width", width)
    tables = analyze(select_checkpoints([run], "all", skipped), method, CPU, skipped)
    assert list(tables["widths"]["step"]) == [4, 8, 12]
    with (run / "step8" / "model.pt").open("r+b") as file:
        file.truncate(2000)
    (run / "step12" / "model.pt").unlink()
    (run / "step4" / "train.pt").unlink()  # of no concern to an analysis
    assert list(analyze(select_checkpoints([run], "all", skipped), method, CPU, skipped)["widths"]["step"]) == [4]
    assert "step8 is damaged: model.pt is not as long as it was written" in skipped.messages[0]
    assert "step12 is damaged: model.pt is missing" in skipped.messages[1]


def test_a_method_that_fails_keeps_nothing(copies: Copies) -> None:
    run, skipped = copies.make("failing"), Skipped()

    def refuse(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> dict[str, pd.DataFrame]:
        raise UserError(f"not on {checkpoint.name}")

    assert analyze(select_checkpoints([run], "last", skipped), Method("width", refuse), CPU, skipped) == {}
    assert skipped.messages == ["failing step12: not on failing step12"]
    assert not (run / "analysis" / "width").exists()


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match="--device: 'tpu' is not one of auto, cpu, cuda"):
        choose_device("tpu")


def test_a_configuration_that_is_none(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained / "step8", tmp_path / "copy"))
    no_model = r"config\.yaml does not describe an ai2-olmo model"
    wrong = dict.fromkeys(("model: {d_model: x}", "model: {unknown: 1}", "other: 1"), no_model)
    for text, message in {**wrong, "a: [": r"config\.yaml: is not YAML: .* \(line 1, column 5\)"}.items():
        (copy / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_model(copy)
    (copy / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"neither ai2-olmo's config\.yaml nor a config\.json"):
        load_model(copy)
