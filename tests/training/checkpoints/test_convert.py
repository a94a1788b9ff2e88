"""Checkpoints of every kind, made into other kinds, are still the same model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from olmo.model import OLMo
from ranks import Ranks
from runs import metrics, same_bits, train_on_rank, write_experiment
from safetensors.torch import load_file

from olmo_inject.cli import main
from olmo_inject.corpus.from_text.sample import train_bpe
from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints import convert
from olmo_inject.training.checkpoints.weights import load_weights

pytestmark = pytest.mark.slow

KINDS = ("ddp", "fsdp", "weights")
UMASK = os.umask(0)
os.umask(UMASK)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def steps(path: Path, ranks: Ranks) -> dict[str, Path]:
    """The same step of two runs in three kinds of checkpoint; weights alone are of the first run's step 6."""
    also = ("checkpoints.also.steps=[6]", "checkpoints.weights_only=true")
    for kind in ("ddp", "fsdp"):
        strategy = f"train.distributed_strategy={kind}"
        ranks.run(2, train_on_rank, path, f"folder={path.parent / kind}", strategy, *also)
    return {
        "ddp": path.parent / "ddp" / "step8",
        "fsdp": path.parent / "fsdp" / "step8",
        "weights": path.parent / "ddp" / "step6",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_becomes_one_safe_file(steps: dict[str, Path], kind: str, tmp_path: Path) -> None:
    to = tmp_path / "deep" / "whole"
    written = convert.unshard(steps[kind], to)
    assert (written.step, written.weights_only, written.sharded) == (6 if kind == "weights" else 8, True, False)
    assert {file.name for file in to.iterdir()} == {"model.safetensors", "config.yaml", "checkpoint.json"}
    assert [entry.name for entry in to.parent.iterdir()] == ["whole"]
    ours, theirs = load_file(to / "model.safetensors"), load_weights(steps[kind])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {file.stat().st_mode & 0o777 for file in to.iterdir()} == {0o666 & ~UMASK}  # colleagues may read it
    with pytest.raises(UserError, match="exists already"):
        convert.unshard(steps[kind], to)


def test_checkpoints_have_the_mode_of_other_files(steps: dict[str, Path]) -> None:
    for step in steps.values():
        assert {file.stat().st_mode & 0o777 for file in step.rglob("*") if file.is_file()} == {0o666 & ~UMASK}


@pytest.mark.parametrize("command", [["unshard"], ["unshard", "--optimizer"], ["export"]])
def test_a_run_or_nothing_in_place_of_a_checkpoint(
    steps: dict[str, Path], command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = steps["ddp"].parent
    for path, said in (
        (run, f"is a run's folder: give one of its 4 checkpoints, as {run}/step12"),
        ("no", "no does not exist"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, str(path), "--out", str(tmp_path / "to")])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_starts_under_ddp_from_unsharded_weights(
    steps: dict[str, Path], path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    convert.unshard(steps["fsdp"], tmp_path / "whole")
    ends = []
    for number, start in enumerate((steps["fsdp"], tmp_path / "whole")):
        run = tmp_path / f"run{number}"
        said = ranks.run(1, train_on_rank, path, f"folder={run}", f"start_from={start}", "train.max_duration=4")[0]
        assert "trained to step 4" in said
        ends.append(run)
    assert same_bits(*ends, 4)


def test_a_run_goes_on_from_an_unsharded_optimizer(
    steps: dict[str, Path], path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    written = convert.unshard_with_optimizer(steps["fsdp"], tmp_path / "whole")
    assert (written.step, written.weights_only, written.sharded) == (8, False, False)
    run = tmp_path / "run"
    ranks.run(2, train_on_rank, path, f"folder={run}", f"start_from={written.path}", "start_state=full")
    whole = {(m["step"], m["name"]): m["value"] for m in metrics(path.parent / "fsdp")}
    ours = {(m["step"], m["name"]): m["value"] for m in metrics(run)}
    assert {step for step, _ in ours} == {8, 9, 10, 11, 12}
    # Adam's averages came along: without them the losses differ in the second digit.
    np.testing.assert_allclose(list(ours.values()), [whole[at] for at in ours], rtol=2e-4, atol=1e-6)


def test_weights_alone_have_no_optimizer(steps: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds weights only"):
        convert.unshard_with_optimizer(steps["weights"], tmp_path / "whole")
    assert not list(tmp_path.iterdir())


def test_damage_is_found_before_anything_is_written(steps: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(steps["fsdp"], tmp_path / "step8")
    with (copy / "model" / "rank_0.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\1")
    for write in (convert.unshard, convert.unshard_with_optimizer):
        with pytest.raises(UserError, match="not as it was written"):
            write(copy, tmp_path / "to")
    with pytest.raises(UserError, match="not as it was written"):
        convert.export(copy, tmp_path / "to", None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step8"]
    with pytest.raises(UserError, match=r"neither ai2-olmo.s config\.yaml"):
        convert.unshard(tmp_path, tmp_path / "to")


LOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
rows = torch.load("rows.pt")
for folder, to, text, ids in json.load(sys.stdin):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.save(model(rows).logits, to)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text).input_ids == ids, tokenizer(text)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert tokenizer.decode(ids) == text
"""
TEXT = "a little more"


@dataclass(frozen=True)
class Exported:
    """An exported model, the original's logits of `some_rows`, and the ids of `TEXT`."""

    folder: Path
    logits: torch.Tensor
    ids: list[int]


VERSION_4 = Path(__file__).parents[3] / ".transformers-4"


def some_rows() -> torch.Tensor:
    return torch.randint(384, (3, 16), generator=torch.Generator().manual_seed(0))


def loaded_elsewhere(exports: dict[str, Exported], folder: Path, packages: str = "") -> dict[str, torch.Tensor]:
    """The logits by transformers alone, in a fresh process without a network; `packages` come first."""
    torch.save(some_rows(), folder / "rows.pt")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": packages}
    asked = [[str(one.folder), f"{name}.pt", TEXT, one.ids] for name, one in exports.items()]
    command, given = [sys.executable, "-c", LOAD], json.dumps(asked)
    done = subprocess.run(
        command, env=os.environ | offline, cwd=folder, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.load(folder / f"{name}.pt") for name in exports}


OLMO2 = (
    *("model.layer_norm_type=rms", "model.layer_norm_with_affine=true", "model.norm_after=true"),
    *("model.attention_layer_norm=true", "model.layer_norm_eps=1e-6"),
)


ARCHITECTURES = ("OlmoForCausalLM", "Olmo2ForCausalLM")


@pytest.fixture(scope="module")
def exports(path: Path, tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> dict[str, Exported]:
    """An exported model of each kind, with another base of the rotation than the usual one."""
    return {name: export_one(name, path, tmp_path_factory.mktemp(name), ranks) for name in ARCHITECTURES}


def export_one(architecture: str, path: Path, folder: Path, ranks: Ranks) -> Exported:
    tokenizer = train_bpe(["a little text, and a little more of it"] * 3, 270)
    tokenizer.save(str(folder / "tokenizer.json"))
    wide = ["model.d_model=64", "model.n_heads=4", "train.max_duration=2", "train.distributed_strategy=fsdp"]
    wide += ["model.rope_theta=500", *(OLMO2 if architecture == "Olmo2ForCausalLM" else ())]
    of_corpus = [f"corpus.tokenizer={folder / 'tokenizer.json'}", "corpus.vocab_size=null"]
    vocabulary = ["model.vocab_size=300", "model.embedding_size=384"]  # with padding rows
    run = folder / "run"
    said = ranks.run(2, train_on_rank, path, f"folder={run}", *wide, *of_corpus, *vocabulary)
    assert "trained to step 2" in said[0]
    step, to = run / "step2", folder / "exported"
    found, why = convert.find_vocabulary(step, None)
    assert not why
    assert convert.export(step, to, found) == architecture
    weights, config = convert.read_model(step)
    model = OLMo(config.update_with(init_device="cpu"), init_params=False)
    model.load_state_dict(weights)
    torch.set_num_threads(1)
    with torch.no_grad():
        ours = model.eval()(input_ids=some_rows()).logits
    return Exported(to, ours, tokenizer.encode(TEXT).ids)


def test_exports_compute_the_same_bits(exports: dict[str, Exported], tmp_path: Path) -> None:
    theirs = loaded_elsewhere(exports, tmp_path)
    for name, exported in exports.items():
        assert torch.equal(exported.logits, theirs[name]), name
        assert not list(exported.folder.glob("*.bin"))
        assert {file.stat().st_mode & 0o777 for file in exported.folder.iterdir()} == {0o666 & ~UMASK}


@pytest.mark.skipif(not VERSION_4.is_dir(), reason="`make transformers-4` installs transformers 4, for this test alone")
def test_transformers_4_reads_exports(exports: dict[str, Exported], tmp_path: Path) -> None:
    """The logits within rounding: this version may add up in another order."""
    theirs = loaded_elsewhere(exports, tmp_path, packages=str(VERSION_4))
    for name, exported in exports.items():
        torch.testing.assert_close(theirs[name], exported.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exports_say_what_transformers_4_reads(exports: dict[str, Exported], name: str) -> None:
    """It knows no `rope_parameters`, and no class of tokenizers that transformers 5 made."""
    folder = exports[name].folder
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 500
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_corpus_without_a_tokenizer_is_exported_without(steps: dict[str, Path], tmp_path: Path) -> None:
    assert convert.find_vocabulary(steps["ddp"], None) == (None, "its corpus has none")
    convert.export(steps["ddp"], tmp_path / "to", None)
    assert not list((tmp_path / "to").glob("tokenizer*"))
    convert.unshard(steps["ddp"], tmp_path / "step8")
    assert convert.find_vocabulary(tmp_path / "step8", None)[0] is None
    train_bpe(["some text"] * 3, 260).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="vocabulary of 128 is less"):
        convert.find_vocabulary(steps["ddp"], str(tmp_path / "t.json"))


def test_going_without_a_tokenizer_is_asked_for(
    steps: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(steps["ddp"]), "--out", str(tmp_path / "to")]
    for more, status in (([], 2), (["--no-tokenizer", "--tokenizer", "t.json"], 2), (["--no-tokenizer"], 0)):
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        assert ended.value.code == status
        said = capsys.readouterr()
        assert "--no-tokenizer" in said.err if status else "without a tokenizer" in said.out
        assert (tmp_path / "to").exists() == (status == 0)
