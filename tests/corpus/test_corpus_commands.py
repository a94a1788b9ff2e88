"""`corpus build` and `corpus scan` as they are typed: what they print, and their exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.corpus.folder import read_corpus_folder
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.corpus.open import corpus_config, shape_of
from olmo_inject.corpus.references import Reference
from olmo_inject.tasks import TaskConfig, build_tasks

EXPERIMENT = """
name: small
folder: {folder}/run
model: {{name: tiny-8, vocab_size: 512, embedding_size: 512, max_sequence_length: 32}}
corpus: {{folder: {folder}/corpus}}
tasks: [{{name: less, kind: comparison, options: {{n_values: 4}}}}]
injections: [{{task: less, instances_per_batch: 1/2}}]
train: {{max_duration: 20, global_train_batch_size: 8}}
"""


def ends(status: int, *arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == status


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    texts = documents(["openbookqa", "arithmetic"])
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for ts in texts.values() for t in ts))
    (folder / "small.yaml").write_text(EXPERIMENT.format(folder=folder))
    bpe = ("--tokenizer", "bpe", "--vocab-size", 512)
    ends(0, "corpus", "build", folder / "t.jsonl", "--out", folder / "corpus", *bpe, "--json")
    return folder


def test_a_shipped_experiment_names_its_corpus() -> None:
    experiment = load_experiment("demo")
    assert corpus_config("demo", None, None) == (experiment.corpus, shape_of(experiment))


@pytest.mark.slow
def test_build(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends(0, "corpus", "build", folder / "t.jsonl", "--out", tmp_path / "out", "--processes", 1)
    out, err = capfd.readouterr()
    corpus = read_corpus_folder(tmp_path / "out")
    assert out == f"{tmp_path / 'out'}: {corpus.documents:,} documents, {corpus.tokens:,} tokens in 1 shard\n"
    assert err == ""
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "b"\n{"text": ""}\n')
    ends(2, "corpus", "build", tmp_path / "t.jsonl", "--out", tmp_path / "two")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"olmo-inject: {tmp_path / 't.jsonl'}: line 2 is damaged: ")
    assert len(err.splitlines()) == 1
    ends(0, "corpus", "build", tmp_path / "t.jsonl", "--out", tmp_path / "two", "--skip-damaged")
    assert "left out: 1 document without text, 1 damaged" in capfd.readouterr().out
    ends(0, "corpus", "build", tmp_path / "t.jsonl", "--out", tmp_path / "two", "--skip-damaged", "--json")
    record = json.loads(capfd.readouterr().out)
    assert (record["documents"], record["empty"], record["damaged"]) == (1, 1, 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "t.jsonl").rename(tmp_path / "in" / "t.jsonl")
    for name in "abcd":
        (tmp_path / "in" / f"{name}.md").write_text("# Notes")
    arguments = ("corpus", "build", tmp_path / "in", "--skip-damaged", "--out")
    ends(0, *arguments, tmp_path / "three")
    first, examples = capfd.readouterr().out.splitlines()[0].rsplit(": ", 1)
    assert first.startswith("not read: 4 files")
    assert examples == ", ".join(str(tmp_path / "in" / f"{name}.md") for name in "abc") + ", ..."
    ends(0, *arguments, tmp_path / "three", "--json")
    assert json.loads(capfd.readouterr().out)["not_read"]["files"] == 4


def test_options_that_would_do_nothing_are_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build = ("build", folder / "t.jsonl", "--out", tmp_path / "out")
    scan = ("scan", folder / "corpus", folder / "small.yaml")
    for arguments, message in (
        ((*build, "--tokenizer", "bpe", "--eos-id", 7), "--eos-id: not with --tokenizer bpe, which has EOS and PAD"),
        ((*build, "--pad-id", 7), "--pad-id: not with --tokenizer dolma, which has EOS and PAD of its own"),
        ((*build, "--vocab-size", 512), "--vocab-size: only with --tokenizer bpe, and not with dolma"),
        (("sample", "--out", tmp_path / "out", "--tokenizer", "dolma", "--vocab-size", 512), "--vocab-size: only with"),
        ((*scan, "--items", 5), "--items: only with --references"),
        ((*scan, "--context", 5), "--context: only with --references"),
        ((*scan, "--near", 0.6), "--near: only with tasks of texts, and the experiment has none"),
    ):
        ends(2, "corpus", *arguments)
        out, err = capfd.readouterr()
        assert err.startswith(f"olmo-inject: {message}")
        assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scan(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = read_corpus_folder(folder / "corpus")
    (task,) = build_tasks([TaskConfig("less", "comparison", options={"n_values": 4})], corpus.load_vocabulary())
    shard = np.memmap(corpus.shards[0].path, corpus.dtype, mode="r+")
    shard[:9] = 2  # clear of the instance below
    shard[3:6] = task.instances[5]
    shard.flush()
    report = folder / "report.json"
    ends(1, "corpus", "scan", folder / "corpus", folder / "small.yaml", "--out", report)
    out = capfd.readouterr().out
    assert f"instance {' | '.join(map(corpus.load_vocabulary().token_text, task.instances[5]))} at part-" in out
    assert "token 3, sequence 0" in out
    assert json.loads(report.read_text())["tasks"]["less"]["instances"] >= 1
    references = folder / "references"
    arguments = ("--resample", 32, "--references", references, "--items", 50, "--processes", 2)
    ends(0, "corpus", "scan", "-", folder / "small.yaml", *arguments)
    out = capfd.readouterr().out
    seed = int(out.rpartition("tasks.0.seed=")[2].split()[0])
    assert "not clean with the seeds given; with these no instance is found:" in out
    assert "R_cmp: 0 found, so no R_cmp.json" in out
    assert f"50 kept in {references / 'R_add.json'}" in out
    assert len(Reference.load(references / "R_add.json").items) == 50
    ends(0, "corpus", "scan", "-", folder / "small.yaml", f"tasks.0.seed={seed}", "--json")
    assert json.loads(capfd.readouterr().out)["tasks"]["less"]["instances"] == 0
    ends(2, "corpus", "scan", folder / "nothing", folder / "small.yaml")
    assert "nothing does not exist, as a folder or a file, nor as" in capfd.readouterr().err
    for option in ("--references", "--out"):  # before the search, which may take hours
        ends(2, "corpus", "scan", folder / "none", folder / "small.yaml", option, folder / "small.yaml" / "x")
        assert "cannot write" in capfd.readouterr().err
    new = ("--references", folder / "new", "--out", folder / "out" / "r.json")
    for config, more, message in (
        ("none.yaml", new, "none.yaml"),
        ("small.yaml", ("--out", folder), f"--out: {folder} is a folder"),
        ("small.yaml", ("--items", 0), "--items: 0 must be at least 1"),
        ("small.yaml", ("--context", 0), "--context: 0 must be at least 1"),
        ("small.yaml", ("--resample", -1), "--resample: -1 must be at least 0"),
        ("small.yaml", ("--show", -1), "--show: -1 must be at least 0"),
        ("small.yaml", ("--processes", 0), "--processes: 0 must be at least 1"),
    ):
        ends(2, "corpus", "scan", folder / "none", folder / config, *more)
        assert message in capfd.readouterr().err
    ends(2, "corpus", "scan", folder / "none", folder / "small.yaml", *new)
    assert not (folder / "new").exists()
    assert not (folder / "out").exists()
    ends(2, "corpus", "build", folder / "t.jsonl", "--out", folder / "new", "--processes", 0)
    assert "--processes: 0 must be at least 1" in capfd.readouterr().err
    (folder / "nothing").mkdir()
    ends(2, "corpus", "scan", folder / "nothing", folder / "small.yaml")
    assert "corpus.json does not exist" in capfd.readouterr().err


def test_the_order_of_some_ranks(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ("--sequence-length", 32, "--batch-size", 8)
    stage = ("corpus", "stage", folder / "corpus", *sizes, "--steps", "0:2", "--out", tmp_path / "stage")
    ends(2, *stage, "--ranks", "0/0")
    assert "--ranks: 0-0/0 are not ranks of 0" in capfd.readouterr().err
    ends(0, *stage, "--ranks", "0/2")
    capfd.readouterr()
    ends(2, "corpus", "order", tmp_path / "stage", "--out", tmp_path / "order", "--steps", "0:2")
    assert f"--steps: {tmp_path / 'stage'} holds the rows of ranks 0-0 of 2, not row 1" in capfd.readouterr().err
    assert not (tmp_path / "order").exists()
