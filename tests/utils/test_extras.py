"""The core without its extras: what works, and the line that says what to install for the rest."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from streams import VOCAB, write_stream

from olmo_inject.adapters.recorder import Recorder
from olmo_inject.adapters.run import InjectedRun, RankBatches
from olmo_inject.errors import UserError
from olmo_inject.utils.extras import missing, require

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def without_extras(*commands: list[str]) -> tuple[list[int], str]:
    """The exit statuses of some commands, and what they said on standard error."""
    script = Path(__file__).with_name("without_extras.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": "/tmp"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def trained(config: Path) -> Path:
    """The folder of a run of a loop that needs torch alone."""
    run = InjectedRun.open(config)
    model: Any = torch.nn.Sequential(torch.nn.Embedding(VOCAB, 8), torch.nn.Linear(8, VOCAB))
    with Recorder(run) as recorder:
        recorder.begin(model, lambda rows: model(rows)[:, -1])
        for positions in RankBatches(run):
            batch = run.dataset.batch(positions)
            logits = model(batch["input_ids"])
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
            recorder.forward(batch["index"], batch["input_ids"], batch["labels"], logits, loss)
            recorder.end_step()
    return run.experiment.run_folder


def test_the_core_needs_no_extra(tmp_path: Path) -> None:
    config = write_stream(tmp_path, "torch")
    run, text, tokenizer = trained(config), tmp_path / "text.jsonl", tmp_path / "tokenizer.json"
    text.write_text('{"text": "one two"}\n{"text": "two three"}\n')
    tokenizer.write_text(json.dumps(word_tokenizer()))
    said = without_extras(
        ["plan", str(config)],
        ["corpus", "show", str(config), "--step", "0"],
        ["corpus", "order", str(config), "--steps", "0:2", "--out", str(tmp_path / "order.u32")],
        ["corpus", "export", str(config), "--steps", "0:2", "--out", str(tmp_path / "export")],
        ["corpus", "build", str(text), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "built")],
        ["audit", str(run)],
        ["audit", str(tmp_path / "export")],
        ["theory", "predict", "docs/predict.yaml"],
    )
    assert said[0] == [0] * 8, said[1]


def word_tokenizer() -> dict[str, Any]:
    words = ["<|endoftext|>", "<|padding|>", "one", "two", "three"]
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "one"},
    }


def test_what_a_command_lacks_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    experiment = tmp_path / "x.yaml"
    experiment.write_text(f"model: tiny-8\nfolder: {tmp_path}/run\ncorpus: {{folder: {tmp_path}/corpus}}\n")
    run = str(trained(write_stream(tmp_path / "stream", "torch")))
    olmo = "this needs ai2-olmo, which is not installed: pip install 'olmo-inject[olmo]' (Python 3.10 to 3.12)"
    expected = {
        ("train", str(experiment)): olmo,
        ("evaluate", run): olmo,
        ("export", run, "--out", str(tmp_path / "exported")): olmo,
        ("demo", "--out", str(tmp_path / "demo")): olmo,
        ("sweep", "run", "tiny-size-frequency"): olmo,
        ("preflight", str(experiment)): olmo,
        ("corpus", "sample", "--out", str(tmp_path / "sample")): olmo,
        ("corpus", "manifest", "dolma-v1_7", "--root", "s3://bucket/dolma"): "'olmo-inject[s3]'",
        ("report", run, "--out", str(tmp_path / "r.html")): "'olmo-inject[analysis]'",
        ("analyze", "features", run, "--out", str(tmp_path / "features")): "'olmo-inject[analysis]'",
    }
    statuses, error = without_extras(*map(list, expected))
    lines = error.splitlines()
    assert statuses == [2] * len(expected), error
    assert len(lines) == len(expected), error
    for command, line, part in zip(expected, lines, expected.values(), strict=True):
        assert line.startswith("olmo-inject: "), command
        assert part in line, command
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stream", "x.yaml"], "something was half written"


def test_a_module_of_no_extra_is_not_the_users_mistake() -> None:
    assert missing("olmo_inject.nothing") is None
    assert missing(None) is None
    require("json")


def test_another_olmo_core_beside_ai2_olmo_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("olmo")
    sharded = importlib.import_module("olmo_inject.training.checkpoints.sharded")
    monkeypatch.setattr("olmo_inject.utils.extras.version", lambda name: "3.0.0")
    with pytest.raises(
        UserError, match=r"^OLMo-core 0\.1 is needed, and 3\.0\.0 is installed: ai2-olmo 0\.6\.0 needs it"
    ):
        importlib.reload(sharded)
