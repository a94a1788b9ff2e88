"""`corpus build|scan|stage` in parts: what they write together is, to the byte, what one process writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.corpus.folder import CORPUS_FOLDER, read_corpus_folder
from olmo_inject.corpus.from_text import job
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.corpus.staging import spill_runs
from olmo_inject.scan import scan
from olmo_inject.tasks import build_tasks
from olmo_inject.vocabulary import Vocabulary

EXPERIMENT = """
name: small
folder: {folder}/run
model: {{name: tiny-8, vocab_size: 512, embedding_size: 512, max_sequence_length: 32}}
corpus: {{folder: {folder}/corpus}}
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 4}}}}
  - {{name: plus, kind: modular_addition, options: {{n_values: 3}}}}
injections: [{{task: less, instances_per_batch: 1/2}}]
train: {{max_duration: 20, global_train_batch_size: 8}}
"""
BPE = ("--tokenizer", "bpe", "--vocab-size", 512, "--shard-tokens", 4000, "--processes", 1)

pytestmark = pytest.mark.slow
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of text, a corpus of them, and an experiment."""
    folder = tmp_path_factory.mktemp("spread")
    texts = documents(["openbookqa"])["openbookqa"][:600]
    (folder / "text").mkdir()
    for number in range(6):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[number::6])
        (folder / "text" / f"{number}.jsonl").write_text(lines)
    (folder / "small.yaml").write_text(EXPERIMENT.format(folder=folder))
    command = [str(word) for word in ("corpus", "build", folder / "text", "--out", folder / "corpus", *BPE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "JOB_BYTES", 1)
        with pytest.raises(SystemExit):
            main(command)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_build(folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "JOB_BYTES", 1)
    build = ("corpus", "build", folder / "text", "--out", tmp_path / "out", *BPE)
    assert call(*build, "--part", "1/2")[1] == "part 1/2: 3 jobs done\n"
    status, _, err = call(*build, "--merge")
    assert status == 2
    assert err.startswith("olmo-inject: --merge: 3 of 6 jobs not kept: job 0, job 2, job 4; ")
    # Another part holds the folder meanwhile; the whole build may not, nor may a build of something else join it.
    with CORPUS_FOLDER.held(tmp_path / "out", shared=True):
        assert "is in use" in call(*build)[2]
        assert call(*build, "--part", "0/2")[0] == 0
    assert "shard_tokens 4000" in call(*build, "--shard-tokens", 5000, "--part", "0/2")[2]
    assert "--overwrite: not with" in call(*build, "--part", "0/2", "--overwrite")[2]
    assert call(*build, "--merge")[0] == 0
    assert contents(tmp_path / "out") == contents(folder / "corpus")
    assert call(*build, "--part", "0/2")[0] == 0
    assert contents(tmp_path / "out") == contents(folder / "corpus")


def test_scan_with_references_and_other_seeds(
    folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PIECE", 3000)
    corpus = read_corpus_folder(shutil.copytree(folder / "corpus", tmp_path / "corpus"))
    less, _ = build_tasks(load_experiment(folder / "small.yaml").tasks, Vocabulary.load(corpus.tokenizer))
    for shard in corpus.shards[::2]:
        tokens = np.fromfile(shard.path, corpus.dtype)
        tokens[700:703] = less.instances[5]
        tokens.tofile(shard.path)
    search = ("corpus", "scan", corpus.folder, folder / "small.yaml", "--resample", 64, "--processes", 1)

    def into(place: Path) -> tuple[object, ...]:
        return (*search, "--references", place / "references", "--out", place / "report.json")

    one, parts = tmp_path / "one", tmp_path / "parts"
    assert call(*into(one))[0] == 0
    assert "--out: needed" in call(*search, "--merge")[2]
    # The first pass searches for the tasks, the second, once the first is whole, for the draws of seeds.
    for part in ("0/2", "1/2"):
        assert not (parts / "report.json").exists()
        assert call(*into(parts), "--part", part)[0] == 0
    found = json.loads((one / "report.json").read_text())["tasks"]["less"]
    assert found["instances"] >= 3
    status, _, err = call(*into(parts), "--merge")
    assert status == 2
    assert " pieces not kept: " in err
    for part in ("1/2", "0/2"):
        assert call(*into(parts), "--part", part)[0] == 0
    assert not (parts / "report.json").exists()
    assert call(*into(parts), "--merge")[0] == 0
    texts = [(place / "report.json").read_text().replace(str(place), "") for place in (one, parts)]
    assert texts[0] == texts[1]
    assert contents(one / "references") == contents(parts / "references")


@pytest.mark.parametrize("read", ["stream", "ranges"])
def test_stage(folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    monkeypatch.setattr(spill_runs, "RUN_BYTES", 20 * 64)
    sizes = ("--batch-size", 8, "--sequence-length", 32, "--seed", 3, "--steps", "2:20", "--read", read)
    stage = ("corpus", "stage", folder / "corpus", *sizes, "--file-size", 30 * 64)
    assert call(*stage, "--out", tmp_path / "one")[0] == 0
    parts = (*stage, "--out", tmp_path / "parts", "--json")
    for _ in ("runs", "parts") if read == "stream" else ("parts",):
        status, _, err = call(*parts, "--merge")
        assert status == 2
        assert "s not kept: " in err
        for part in ("2/3", "0/3", "1/3"):
            status, out, err = call(*parts, "--part", part)
            assert status == 0, err
            assert json.loads(out)["part"] == part
    assert call(*parts, "--merge")[0] == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    assert call("corpus", "verify", tmp_path / "parts")[0] == 0
    assert call(*parts[:-1], "--part", "0/3")[1] == f"{tmp_path / 'parts'}: already staged\n"
