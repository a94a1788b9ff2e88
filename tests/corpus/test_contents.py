"""What a folder records of its contents: compared when a run goes on, and checked byte by byte on demand."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo_inject.cli import main
from olmo_inject.config import Experiment, load_experiment
from olmo_inject.corpus.folder import read_corpus_folder
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.corpus.kinds import Shape
from olmo_inject.corpus.open import open_corpus
from olmo_inject.corpus.staged import read_stage
from olmo_inject.corpus.staging import open_stager
from olmo_inject.data import ExperimentData, build_data
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import prepare
from olmo_inject.runs.same_run import CONTENTS, changed, check_same_run, fingerprints
from olmo_inject.utils.files import read_json, write_json

EXPERIMENT = """
name: contents
folder: {folder}/run
model: {{name: tiny-8, vocab_size: 400, embedding_size: 400, max_sequence_length: 16}}
corpus: {{folder: {folder}/corpus}}
tasks: [{{name: less, kind: comparison, options: {{n_values: 4}}}}]
injections: [{{task: less, instances_per_batch: 1}}]
train: {{max_duration: 3, global_train_batch_size: 8}}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "t.txt").write_text("\n".join(documents(["openbookqa"])["openbookqa"][:300]))
    options = BuildOptions("bpe", vocab_size=400)
    return build_corpus(folder / "corpus", [str(folder / "t.txt")], options, progress=False).folder


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "e.yaml").write_text(EXPERIMENT.format(folder=tmp_path))
    return tmp_path


def ends(status: int, *arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["corpus", *map(str, arguments), "--json"])
    assert ended.value.code == status


def test_a_folder_is_shown_and_scanned_in_the_order_of_the_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`corpus.sequences` decides the steps too, whether the corpus is named by the experiment or beside it."""
    config = folder / "e.yaml"
    config.write_text(config.read_text().replace("/corpus}", "/corpus, sequences: 16}"))
    (task,) = build_data(load_experiment(config)).tasks
    shard = read_corpus_folder(folder / "corpus").shards[0].path
    tokens = np.fromfile(shard, np.uint16)
    for sequence in (3, 9, 40):
        tokens[16 * sequence :][:3] = task.instances[sequence % 7]
    tokens.tofile(shard)
    ends(0, "stage", config, "--steps", "0:2", "--out", folder / "stage")
    capfd.readouterr()
    shown, found = [], []
    for corpus in (config, folder / "corpus", folder / "stage"):
        ends(0, "show", corpus, "--injections", config, "--step", 1, "--rows", "all")
        shown.append([row["tokens"] for row in json.loads(capfd.readouterr().out)["rows"]])
        ends(1, "scan", corpus, config, "--processes", 1)
        places = json.loads(capfd.readouterr().out)["tasks"]["less"]["places"]
        found.append(
            {(*p["tokens"], p["step"], p["row"]) for p in places if p["kind"] == "instance" and p["step"] is not None}
        )
    run = build_data(load_experiment(config)).corpus.rows(np.arange(8, 16))["input_ids"].tolist()
    assert shown == [run] * 3
    assert found[0] == found[1] == found[2] != set()
    config.write_text(config.read_text().replace("sequences: 16", "sequences: 17"))
    for command in (
        ("show", folder / "stage", "--injections", config, "--step", 1),
        ("scan", folder / "stage", config),
    ):
        ends(2, *command)
        assert "corpus.sequences: 17, but " in capfd.readouterr().err


def built(folder: Path, *overrides: str) -> tuple[Experiment, ExperimentData]:
    experiment = load_experiment(folder / "e.yaml", overrides)
    return experiment, build_data(experiment)


def record_other_sums(path: Path) -> None:
    """As if the folder had been built again, from other text of the same length."""
    record = read_json(path)
    for shard in record["shards"]:
        shard["sha256"] = "0" * 64
    write_json(path, record)


def stage(folder: Path, to: Path, **more: Any) -> None:
    opened = open_corpus(str(folder / "e.yaml"), None, None, Shape())
    assert open_stager(opened.shards, opened.order, opened.source.vocabulary, range(3), to, **more).run(lambda n: None)


def test_a_run_goes_on_only_with_the_contents_it_began_with(folder: Path) -> None:
    prepare(*built(folder))
    check_same_run(*built(folder))
    record_other_sums(folder / "corpus" / "corpus.json")
    with pytest.raises(UserError, match="is a run of another experiment: corpus contents have changed"):
        prepare(*built(folder))


def test_a_run_begun_before_contents_were_recorded_goes_on(folder: Path) -> None:
    prepare(*built(folder))
    plan = folder / "run" / "plan.json"
    record = read_json(plan)
    contents = record["fingerprints"].pop(CONTENTS)
    write_json(plan, record)
    prepare(*built(folder))
    assert read_json(plan)["fingerprints"][CONTENTS] == contents
    assert changed({"corpus": "a", "task x": "b"}, {"corpus": "a", CONTENTS: "c"}) == ["task x"]


def test_the_same_shards_may_be_named_otherwise(folder: Path) -> None:
    """A list of paths knows no contents: the run goes on, and what it knew it still knows."""
    prepare(*built(folder))
    (shard,) = read_corpus_folder(folder / "corpus").shards
    tokenizer = f"corpus.tokenizer={folder}/corpus/tokenizer.json"
    paths = built(folder, "corpus.folder=null", f"corpus.paths=[{shard.path}]", tokenizer)
    assert paths[1].shards.contents() is None
    assert CONTENTS not in fingerprints(paths[1])
    assert paths[1].shards.fingerprint() == built(folder)[1].shards.fingerprint(), "which is of names and sizes alone"
    prepare(*paths)
    prepare(*built(folder))
    record_other_sums(folder / "corpus" / "corpus.json")
    with pytest.raises(UserError, match="corpus contents have changed"):
        check_same_run(*built(folder))


def test_a_stage_carries_the_contents_of_its_source(folder: Path, tmp_path: Path) -> None:
    shards = built(folder)[1].shards
    assert shards.contents() == pickle.loads(pickle.dumps(shards)).contents() is not None
    stage(folder, tmp_path / "stage")
    assert read_stage(tmp_path / "stage").contents == shards.contents()
    prepare(*built(folder))
    check_same_run(*built(folder, f"corpus.folder={tmp_path}/stage"))
    record_other_sums(folder / "corpus" / "corpus.json")
    stage(folder, tmp_path / "other")
    with pytest.raises(UserError, match="corpus contents have changed"):
        check_same_run(*built(folder, f"corpus.folder={tmp_path}/other"))
    with pytest.raises(UserError, match="holds a stage of contents [0-9a-f]{12}, not contents [0-9a-f]{12}; "):
        stage(folder, tmp_path / "stage")


def test_a_stage_of_an_earlier_version_is_read(folder: Path, tmp_path: Path) -> None:
    stage(folder, tmp_path / "stage")
    record = read_json(tmp_path / "stage" / "stage.json")
    del record["contents"]
    write_json(tmp_path / "stage" / "stage.json", record)
    assert read_stage(tmp_path / "stage").contents is None
    prepare(*built(folder))
    check_same_run(*built(folder, f"corpus.folder={tmp_path}/stage"))


@pytest.mark.parametrize("kind", ["shard", "provenance"])
def test_a_changed_byte_is_found(folder: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = folder / "corpus"
    capfd.readouterr()
    ends(0, "verify", corpus)
    assert json.loads(capfd.readouterr().out) == {"folder": str(corpus), "files": 2, "damaged": []}
    path = next(corpus.glob("part-*.npy" if kind == "shard" else "part-*.csv.gz"))
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    ends(1, "verify", corpus)
    assert json.loads(capfd.readouterr().out)["damaged"] == [path.name]
    path.unlink()
    ends(2 if kind == "shard" else 1, "verify", corpus)
    out, err = capfd.readouterr()
    assert ("is missing: corpus.json records" in err) if kind == "shard" else (path.name in out)
