"""Corpora by name: the official listing, manifests, and experiments that name one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from named import BATCH, LENGTH, NAMES, served, write_named

from olmo_inject.cli import app, main
from olmo_inject.config import CorpusConfig, Experiment, configs_folder, load_experiment
from olmo_inject.corpus import kinds
from olmo_inject.corpus.catalog import read_catalog
from olmo_inject.corpus.folder import CorpusDescription, Shard, write_description
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.corpus.kinds import find_corpus
from olmo_inject.corpus.manifest import default_path, make_manifest, read_manifest, write_manifest
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source, open_source
from olmo_inject.data import build_data
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary

# Of the names in the published configurations of OLMo-7B-0424 (and 0724), OLMo-1B, OLMo-7B and OLMo-2's first stage,
# one a line: their SHA-256, how many they are and how many different; then dtype, sequence length and batch size; then
# EOS, PAD and the size of the vocabulary. Every run's seed is 6198.
NEOX = (50279, 1, 50280)
OFFICIAL = {
    "dolma-v1_7": (
        ("7221f55c40aed8883c42238ebfed42f1d9ce9f6d018739b32c4ca154ce65552c", 1033, 1031),
        ("uint16", 4096, 1024),
        NEOX,
    ),
    "dolma-v1_5": (
        ("c149a6ddd9dca6f7b1e24280fe90e03e8cb5bd83aafb04a6cc2487aa2780917e", 249, 249),
        ("uint16", 2048, 2048),
        NEOX,
    ),
    "dolma-v1_5-sample": (
        ("fceb7f62533e2bcf600a151a41e015a252ca5be24c59e637b922ce835dcaa2f7", 443, 443),
        ("uint16", 2048, 2048),
        NEOX,
    ),
    "olmo-mix-1124": (
        ("87cf2c11fadb4e03f1428a6805be7c64b71678e9eae8c1bfef5a815e0de67032", 1122, 1117),
        ("uint32", 4096, 1024),
        (100257, 100277, 100278),
    ),
}


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Source, "pause_s", 0.001)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return write_named(tmp_path)


def experiment(tmp_path: Path, corpus: dict[str, Any], *overrides: str) -> Experiment:
    path = tmp_path / "x.yaml"
    sizes = {"vocab_size": 50280, "embedding_size": 50304, "eos_token_id": 50279, "pad_token_id": 1}
    record = {
        "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "max_sequence_length": LENGTH, **sizes},
        "corpus": {"seed": 7, **corpus},
        "tasks": [{"name": "tcmp", "kind": "comparison", "options": {"n_values": 10}}],
        "injections": [{"task": "tcmp", "instances_per_batch": "5/2"}],
        "train": {"max_duration": 7, "global_train_batch_size": BATCH},
    }
    path.write_text(json.dumps(record))
    return load_experiment(path, overrides)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_order_is_the_published_listing(name: str) -> None:
    listing, shape, ids = OFFICIAL[name]
    corpus = read_catalog(configs_folder() / "corpora" / f"{name}.yaml")
    assert (corpus.listing, len(corpus.shards), len(set(corpus.shards))) == listing
    entry = corpus.entry
    assert entry.seed == 6198
    assert (entry.dtype, entry.sequence_length, entry.batch_size) == shape
    vocabulary = Vocabulary.load(entry.tokenizer)
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.size) == ids
    assert (entry.eos_token_id, entry.pad_token_id) == ids[:2]


def test_every_shipped_corpus_has_its_listing() -> None:
    assert {path.stem for path in (configs_folder() / "corpora").glob("*.yaml")} == OFFICIAL.keys()


def test_a_small_table(catalog: Path) -> None:
    assert list(read_catalog(catalog).shards) == NAMES


def test_a_part_whose_files_stand_twice(catalog: Path) -> None:
    catalog.write_text(catalog.read_text().replace("pieces: {2: 1}", 'pieces: {2: 1}, twice: "1"'))
    assert list(read_catalog(catalog).shards) == [
        NAMES[0],
        *(name for name in NAMES[1:3] for _ in range(2)),
        *NAMES[3:],
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("times: 2", "tines: 2", "tines"),
        ("parts: 2", "parts: two", "parts"),
        ("{2: 1}", "{2: 1-2}", "books has no part 2 among 2"),
        ("times: 2", "twice: 0-1", "wiki/all has no part 1 among 1"),
        ("{path}/", "{place}/", r"shards: \{place\} is none of \{path\}, \{part\} and \{piece\}"),
        ("{path}/", "{path.x}/", "the table of shards: .*attribute 'x'"),
        ("sequence_length: 16", "sequence_length: 0", "sequence_length: 0 must be at least 1"),
        ("batch_size: 8", "batch_size: -1", "batch_size: -1 must be at least 1"),
        ("dtype: uint16", "dtype: [", "is not YAML"),
        ("dtype: uint16", "dtype: int8", "dtype: 'int8' is not one of uint8, uint16, uint32, uint64"),
    ],
)
def test_mistakes_in_a_table(catalog: Path, before: str, after: str, message: str) -> None:
    catalog.write_text(catalog.read_text().replace(before, after))
    with pytest.raises(UserError, match=f"small.yaml: .*{message}") as refused:
        read_catalog(catalog)
    assert "\n" not in str(refused.value)


def test_the_manifest_is_the_same_from_anywhere(catalog: Path, tmp_path: Path) -> None:
    corpus = read_catalog(catalog)
    asked: list[None] = []
    local = make_manifest(corpus, open_source(str(tmp_path / "root")), lambda: asked.append(None))
    assert len(asked) == 4
    with served(tmp_path / "root") as (url, _):
        web = make_manifest(corpus, open_source(url))
    assert vars(web) | {"root": ""} == vars(local) | {"root": ""}
    shards = TokenShards([tmp_path / "root" / name for name in NAMES], LENGTH)
    assert (local.sequences, local.fingerprint) == (len(shards), shards.fingerprint())
    write_manifest(local, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json", corpus) == local


def test_the_order_needs_the_manifest_alone(catalog: Path, tmp_path: Path) -> None:
    manifest = make_manifest(read_catalog(catalog), open_source(str(tmp_path / "root")))
    nowhere = RemoteShards(open_source("http://127.0.0.1:9"), NAMES, manifest.sizes, LENGTH)
    assert len(nowhere) == manifest.sequences
    assert nowhere.fingerprint() == manifest.fingerprint
    assert len(Order(len(nowhere), BATCH, 7)[np.arange(100)]) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"listing": "0"}, "is the manifest of small with other shards than small has now"),
        ({"dtype": "uint32"}, "with other shards"),
        ({"sizes": [2, 2, 2, 2, 2]}, "is damaged: its fingerprint is not that of its sizes"),
        ({"sizes": [2]}, "is not a manifest"),
        ({"more": 1}, "is not a manifest"),
    ],
)
def test_a_manifest_of_something_else(catalog: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    corpus = read_catalog(catalog)
    path = tmp_path / "m.json"
    write_manifest(make_manifest(corpus, open_source(str(tmp_path / "root"))), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_manifest(path, corpus)


def test_a_shard_cut_in_a_token_has_no_manifest(catalog: Path, tmp_path: Path) -> None:
    with (tmp_path / "root" / NAMES[1]).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"part-1-000\.npy has 1067 bytes, not a positive multiple of 2"):
        make_manifest(read_catalog(catalog), open_source(str(tmp_path / "root")))


@pytest.mark.slow
def test_an_experiment_reads_the_same_from_disk_and_server(catalog: Path, tmp_path: Path) -> None:
    corpus = read_catalog(catalog)
    positions = np.arange(7 * BATCH)
    with served(tmp_path / "root") as (url, faults):
        named = {"name": str(catalog), "root": url}
        with pytest.raises(
            UserError, match=r"small-\w+\.json: no manifest of .*small\.yaml; `olmo-inject corpus manifest"
        ):
            build_data(experiment(tmp_path, named))
        write_manifest(make_manifest(corpus, open_source(url)), default_path(corpus))
        web = build_data(experiment(tmp_path, named))
        from_web = web.corpus.rows(positions)["input_ids"]
        assert faults.bytes_asked < 182 * 2 * LENGTH
    local = build_data(experiment(tmp_path, {"name": str(catalog)}))
    assert (local.corpus.rows(positions)["input_ids"] == from_web).all()
    assert local.shards.fingerprint() == web.shards.fingerprint()
    own = build_data(
        experiment(
            tmp_path,
            {"paths": [str(tmp_path / "root" / name) for name in NAMES], "tokenizer": corpus.entry.tokenizer},
        )
    )
    assert (own.corpus.rows(positions)["input_ids"] == from_web).all()


def test_two_corpora_of_one_name_have_a_manifest_each(catalog: Path, tmp_path: Path) -> None:
    corpus, manifest = read_catalog(catalog), tmp_path / "m.json"
    other = replace(corpus, shards=corpus.shards[:-1])
    assert default_path(other).stem.startswith(corpus.name)
    assert default_path(other) != default_path(corpus)
    write_manifest(make_manifest(corpus, open_source(str(tmp_path / "root"))), manifest)
    with pytest.raises(UserError, match=f"is the manifest of {corpus.name} with other shards than"):
        read_manifest(manifest, other)


@pytest.mark.slow
def test_a_local_shard_is_checked_against_the_manifest(catalog: Path, tmp_path: Path) -> None:
    corpus = read_catalog(catalog)
    write_manifest(make_manifest(corpus, open_source(str(tmp_path / "root"))), tmp_path / "m.json")
    config = experiment(tmp_path, {"name": str(catalog), "manifest": str(tmp_path / "m.json")})
    build_data(config)
    with (tmp_path / "root" / NAMES[2]).open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(
        UserError, match=r"part-1-001\.npy has 236 bytes where the manifest records 234: it has changed"
    ):
        build_data(config)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"name": "dolma-v1_7"}, "corpus.root: dolma-v1_7 needs one: a folder, http"),
        ({"name": "pile"}, "pile is neither a file nor one of the shipped corpora: dolma-v1_5, "),
        ({"name": "dolma-v1_7", "root": "r", "eos_token_id": 0}, "corpus.eos_token_id: 0, but dolma-v1_7"),
        ({"name": "dolma-v1_7", "root": "r", "manifest": "none.json"}, "none.json does not exist"),
        ({"name": "dolma-v1_7", "root": "no/such"}, "corpus.root: no/such is not a folder of this machine"),
        ({"name": "dolma-v1_7", "folder": "x"}, "corpus: give one of name, folder and paths, not name and folder"),
        ({"paths": ["x"], "root": "r"}, "corpus.root: only with corpus.name"),
        (
            {"paths": ["https://x.org/part-0.npy"]},
            "corpus.paths: https://x.org/part-0.npy is an address; .* corpus.name: of configs/corpora, such as",
        ),
        ({"name": "dolma-v1_7", "dtype": "uint32"}, "corpus.dtype: not with corpus.name, which decides it"),
    ],
)
def test_refused(tmp_path: Path, corpus: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_data(experiment(tmp_path, corpus))


def test_an_id_that_the_file_does_not_state_is_the_tokenizers(catalog: Path, tmp_path: Path) -> None:
    catalog.write_text(catalog.read_text().replace("pad_token_id: 1\n", ""))
    config = CorpusConfig(name=str(catalog), pad_token_id=1)
    assert find_corpus(config).vocabulary.pad_id == 1
    with pytest.raises(UserError, match="corpus.pad_token_id: 7, but .*small.* was written with 1"):
        find_corpus(replace(config, pad_token_id=7))


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["corpus", *map(str, arguments)])
    assert ended.value.code == 0


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> Any:
    command(*arguments, "--json")
    return json.loads(capfd.readouterr().out)


@pytest.mark.slow
def test_the_commands_from_manifest_to_stage(catalog: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server's corpus is measured, looked at, staged, verified, and looked at again in the stage."""
    load = experiment(tmp_path, {"name": str(catalog)})
    expected = build_data(load).corpus.rows(np.arange(3 * BATCH, 4 * BATCH))["input_ids"].tolist()
    with served(tmp_path / "root") as (url, faults):
        web = ("--root", url)
        assert run(capfd, "manifest", catalog, *web)["sequences"] == 182
        before = faults.bytes_asked
        shown = run(capfd, "show", catalog, *web, "--step", 3, "--rows", "0-2,7", "--injections", tmp_path / "x.yaml")
        assert faults.bytes_asked - before <= 4 * 2 * LENGTH, "four rows are fetched, and nothing else"
        assert [row["tokens"] for row in shown["rows"]] == [expected[row] for row in (0, 1, 2, 7)]
        planned = build_data(load).plan.at(3).rows.tolist()
        assert [row["row"] for row in shown["rows"] if row["injected"]] == [r for r in (0, 1, 2, 7) if r in planned]
        by_default = run(capfd, "show", catalog, *web, "--step", 3, "--injections", tmp_path / "x.yaml")
        assert [row["row"] for row in by_default["rows"]] == sorted(planned)
        with pytest.raises(UserError, match=r"--step: 7 is not in 0\.\.6, the steps of"):
            run(capfd, "show", catalog, *web, "--step", 7, "--injections", tmp_path / "x.yaml")
        staged = run(capfd, "stage", catalog, *web, "--steps", "2:9", "--out", tmp_path / "stage")
        assert staged["complete"]
        assert staged["bytes"] == 7 * BATCH * 2 * LENGTH
    again = run(capfd, "stage", catalog, *web, "--steps", "2:9", "--out", tmp_path / "stage")
    assert again == {"folder": str(tmp_path / "stage"), "already": True, "contents_known": False}
    with served(tmp_path / "root") as (url, _):
        anew = ("--root", url, "--steps", "2:9", "--out", tmp_path / "stage", "--overwrite")
        assert run(capfd, "stage", catalog, *anew)["complete"]
    assert run(capfd, "verify", tmp_path / "stage")["damaged"] == []
    again = run(capfd, "show", tmp_path / "stage", "--step", 3, "--rows", "all", "--injections", tmp_path / "x.yaml")
    assert [row["tokens"] for row in again["rows"]] == expected
    for beyond in (
        ("show", tmp_path / "stage", "--step", 9),
        ("order", tmp_path / "stage", "--steps", "0:3", "--out", "o"),
    ):
        with pytest.raises(UserError, match=f"^{beyond[2]}s?: .*stage holds steps 2 to 8, not step"):
            run(capfd, *beyond)
    assert run(capfd, "show", catalog, "--step", 22, "--rows", "0")["epoch"] == 2
    written = run(capfd, "order", catalog, *web, "--steps", "0:30", "--out", tmp_path / "order.u32")
    assert written["rows"] == 240
    np.testing.assert_array_equal(np.fromfile(tmp_path / "order.u32", np.uint32), Order(182, BATCH, 7)[np.arange(240)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "--step", "0", "--rows", "5-9"), "--rows: 5-9: a batch has rows 0 to 7"),
        (("show", "--step", "0", "--rows", "few"), "--rows: 'few' is neither `all` nor numbers"),
        (("show", "--step", "-1"), "--step: -1 must be at least 0"),
        (("stage", "--out", "t", "--steps", "5"), "--steps: '5' is not start:stop"),
        (("stage", "--out", "t", "--steps", "0:5", "--ranks", "0"), "--ranks: '0' is not first-last/world"),
        (
            ("stage", "--out", "t", "--steps", "3:26"),
            "--steps: 3:26 is more than the whole corpus",
        ),
        (
            ("stage", "--out", "t", "--steps", "0:9999999", "--ranks", "0/2"),
            "stage at most 44 steps",
        ),
        (("order", "--out", "t", "--steps", "0"), "--steps: '0' is not start:stop"),
        (("order", "--out", "t", "--steps", "4:4"), "--steps: 4:4: stop must be above start"),
        (("order", "--out", "t", "--steps", f"0:{10**30}"), "at most 2,147,483,647"),
    ],
)
def test_mistakes_on_the_command_line(
    catalog: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told at once: no long order is shuffled before."""
    monkeypatch.setattr(kinds, "SHARED_FROM", 1)
    monkeypatch.setattr(Order, "_store", lambda self, epoch, length: pytest.fail("a mistake made it shuffle"))
    name, *more = arguments
    with pytest.raises(UserError, match=message):
        app(["corpus", name, str(catalog), *more])


def test_a_missing_shard_is_told_in_one_line(catalog: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (catalog.parent / "root" / NAMES[1]).unlink()
    with pytest.raises(SystemExit):
        main(["corpus", "manifest", str(catalog)])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("olmo-inject: corpus: cannot read shard ")
    assert err.count("\n") == 1


def test_a_folder_does_not_say_how_long_its_sequences_are(tmp_path: Path) -> None:
    dolma = Vocabulary.load(DOLMA)
    shard = Shard(tmp_path / "corpus" / "part-00000.npy", 8, "")
    shard.path.parent.mkdir()
    np.zeros(8, np.uint16).tofile(shard.path)
    ids = dolma.size, dolma.eos_id, dolma.pad_id
    write_description(CorpusDescription(shard.path.parent, DOLMA, dolma.fingerprint, "uint16", *ids, (shard,), 1, {}))
    with pytest.raises(UserError, match="^--batch-size and --sequence-length: .* does not say them"):
        app(["corpus", "show", str(tmp_path / "corpus"), "--step", "0"])
