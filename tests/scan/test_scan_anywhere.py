"""The same tokens searched in local shards, over HTTP and in a stage: the same is found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import tasks_of, vocabulary
from named import Faults, served
from scanning import scan_experiment, scan_here

from olmo_inject.cli import main
from olmo_inject.config import experiment_yaml, load_experiment
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.corpus.kinds import Shape
from olmo_inject.corpus.open import open_corpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.references import Reference
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source, open_source
from olmo_inject.corpus.staged import RankRange, StagedShards, StageOrder, read_stage
from olmo_inject.corpus.staging import open_stager
from olmo_inject.errors import UserError
from olmo_inject.scan import chunks, piece, scan
from olmo_inject.scan.report import IN_STAGE, NO_DOCUMENTS, ScanOptions
from olmo_inject.scan.scan import ReferenceOptions
from olmo_inject.scan.statements import statements
from olmo_inject.tasks import build_tasks
from olmo_inject.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

LENGTH, BATCH = 64, 8
NAMES = ["a/part-0.npy", "a/part-1.npy", "b/part-0.npy", "b/part-0.npy"]
CATALOG = """
dtype: uint16
tokenizer: allenai_gpt-neox-olmo-dolma-v1_5
sequence_length: 64
batch_size: 8
shards: "{path}/part-{part}.npy"
folders: [{path: a, parts: 2, digits: 1}, {path: b, parts: 1, digits: 1, times: 2}]
"""
EXPERIMENT = """
name: anywhere
folder: {folder}/run
model: {{name: tiny-8, max_sequence_length: 64, vocab_size: 50304, embedding_size: 50304, eos_token_id: 50279, pad_token_id: 1}}
corpus: {{name: {folder}/anywhere.yaml, root: {folder}/root}}
tasks: [{{name: less, kind: comparison}}, {{name: plus, kind: modular_addition}}]
injections: [{{task: less, instances_per_batch: 1}}]
train: {{max_duration: 100, global_train_batch_size: 8}}
"""  # noqa: E501


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Source, "pause_s", 0.001)


@pytest.fixture(scope="module")
def dolma() -> Vocabulary:
    return Vocabulary.load(DOLMA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, dolma: Vocabulary) -> Path:
    """Real text in whole sequences that fill whole batches, with instances planted in it."""
    folder = tmp_path_factory.mktemp("anywhere")
    corpus = build_sample(folder / "sample", tokenizer="dolma", sources=["arithmetic", "arc", "sciq"], progress=False)
    text = np.concatenate([np.fromfile(shard.path, np.uint16) for shard in reversed(corpus.shards)])
    assert dolma.tokenizer is not None
    more = dolma.tokenizer.encode(" So 9 is less than 12, and 3 < 4.\n").ids
    for place in range(17, len(text) - len(more), 1021):  # at every place of a sequence
        text[place : place + len(more)] = more
    config = folder / "anywhere-run.yaml"
    config.write_text(EXPERIMENT.format(folder=folder))
    (folder / "anywhere.yaml").write_text(CATALOG)
    less, plus = build_tasks(load_experiment(config).tasks, dolma)
    text[LENGTH * 5 + 3 :][:3] = less.instances[4321]
    text[LENGTH * 700 - 1 :][:3] = less.instances[55]  # over the end of a sequence, the pair too
    text[LENGTH * 750 - 2 :][:3] = plus.instances[7]  # the pair within
    text[LENGTH * 900 - 3 :][:3] = plus.instances[8]  # all of it
    text[LENGTH * 1000 : LENGTH * 1000 + 3] = plus.instances[9]
    # Instances that stand nowhere in the text, but would where sequences meet in a stage.
    order = Order(1600, BATCH, 6198)
    for position, instance, cut in ((10, less.instances[77], 1), (20, less.instances[78], 2)):
        before, after = (n - 400 * (n >= 1200) for n in order[np.arange(position, position + 2)].tolist())
        text[(before + 1) * LENGTH - cut : (before + 1) * LENGTH] = instance[:cut]
        text[after * LENGTH : after * LENGTH + 3 - cut] = instance[cut:]
    first = 0
    for name, sequences in zip(dict.fromkeys(NAMES), (300, 500, 400), strict=True):
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text[first : first + sequences * LENGTH].tofile(path)
        first += sequences * LENGTH
    return folder


def sizes(folder: Path) -> list[int]:
    return [(folder / "root" / name).stat().st_size for name in NAMES]


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[tuple[str, Faults]]:
    with served(folder / "root") as there:
        yield there


def local_shards(folder: Path) -> TokenShards:
    return TokenShards([folder / "root" / name for name in NAMES], LENGTH, vocab_size=50280)


def staged(folder: Path, to: Path, steps: range | None = None, ranks: RankRange | None = None) -> StagedShards:
    """By default an epoch, which is all of it."""
    shards = local_shards(folder)
    order = Order(len(shards), BATCH, 6198)
    steps = range(order.epoch_steps) if steps is None else steps
    stager = open_stager(shards, order, Vocabulary.load(DOLMA), steps, to, ranks=ranks, file_bytes=100_000)
    assert stager.run(lambda n: None)
    return StagedShards(read_stage(to), LENGTH, 50280)


def scanned(where: str, folder: Path, **options: Any) -> dict[str, Any]:
    return scan_experiment(where, load_experiment(folder / "anywhere-run.yaml"), ScanOptions(processes=2, **options))


def test_the_same_is_found_here_and_over_http(
    folder: Path, web: tuple[str, Faults], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, faults = web
    catalog = str(folder / "anywhere.yaml")
    kinds = ["drop", "500", "short"]
    here = scanned("-", folder, references=tmp_path / "here")
    assert here["tasks"]["less"]["instances"] == 2
    assert here["tasks"]["plus"]["instances"] == 5, "what stands in the third shard stands there twice"
    with pytest.raises(UserError, match="no manifest of .*corpus manifest"):
        scanned(catalog, folder, root=url)
    with pytest.raises(SystemExit):
        main(["corpus", "manifest", catalog, "--root", url])
    faults.next_fault = lambda number: kinds[faults.met.total() % 3] if faults.nth == 0 else None
    there = scanned(catalog, folder, root=url, references=tmp_path / "there")
    faults.next_fault = lambda number: None
    assert faults.met.keys() == set(kinds)
    assert not (tmp_path / "cache" / "blocks").exists(), "what is streamed once is not worth keeping"
    for name in ("R_add", "R_cmp"):
        paths = [Path(report["references"][name].pop("file")) for report in (here, there)]
        first, second = map(Reference.load, paths)
        assert first == second
    assert (here.pop("documents"), there.pop("documents")) == (NO_DOCUMENTS["local"], NO_DOCUMENTS["remote"])
    del here["corpus"], there["corpus"]
    assert here == there
    capfd.readouterr()
    config = str(folder / "anywhere-run.yaml")
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "scan", catalog, config, "--root", url, "--json", "--processes", "1"])
    assert ended.value.code == 1, "instances were found"
    del here["references"]
    assert json.loads(capfd.readouterr().out) == {"corpus": catalog, "documents": NO_DOCUMENTS["remote"], **here}


def test_a_stage_is_searched_sequence_by_sequence(folder: Path, tmp_path: Path, dolma: Vocabulary) -> None:
    """What stands within a sequence is found at the step that reads it; nothing is made up where two meet."""
    shards = staged(folder, tmp_path / "stage")
    here = scanned(str(folder / "anywhere.yaml"), folder, root=str(folder / "root"))
    there = scanned(str(tmp_path / "stage"), folder, references=tmp_path / "references")
    assert there["where"] == IN_STAGE
    assert there["documents"] == NO_DOCUMENTS["stage"]
    assert here["documents"] == NO_DOCUMENTS["local"]
    assert (here["tokens"], here["sequences"]) == (there["tokens"], there["sequences"])
    places = StageOrder(shards.stage, BATCH, 6198)
    source = Order(here["sequences"], BATCH, 6198)
    positions = np.arange(here["sequences"])
    of_place = {place: int(source[positions[at : at + 1]][0]) for at, place in enumerate(places[positions].tolist())}
    for name, task in there["tasks"].items():
        assert task["tokens"] == here["tasks"][name]["tokens"]
        within = [place for place in here["tasks"][name]["places"] if place["sequence"] is not None]
        assert len(within) < len(here["tasks"][name]["places"]), "some stand over the end of a sequence"
        for kind, count in (("instance", task["instances"]), ("pair", task["pairs"])):
            expected = Counter((p["sequence"], p["step"], *p["tokens"]) for p in within if p["kind"] == kind)
            found = [p for p in task["places"] if p["kind"] == kind]
            assert len(found) == count
            assert Counter((of_place[p["sequence"]], p["step"], *p["tokens"]) for p in found) == expected
        for p in task["places"]:
            tokens = np.fromfile(tmp_path / "stage" / p["shard"], np.uint16)
            assert tokens[p["offset"] :][: len(p["tokens"])].tolist() == p["tokens"]
            if p["step"] is not None:
                assert source[np.array([p["step"] * BATCH + p["row"]])] == of_place[p["sequence"]]
    ((name, place), *_) = [
        (name, place) for name, task in there["tasks"].items() for place in task["places"] if place["step"] is not None
    ]
    few = range(place["step"], place["step"] + 1)
    staged(folder, tmp_path / "few", few, RankRange(place["row"] % 2, place["row"] % 2, 2))
    found = [(p["step"], p["row"]) for p in scanned(str(tmp_path / "few"), folder)["tasks"][name]["places"]]
    assert (place["step"], place["row"]) in found, "also where the stage has fewer sequences than a batch"
    spelled, expected = dolma.token_bytes(), Counter()
    for row in shards.read(np.arange(len(shards))):
        for document in np.split(row, np.flatnonzero(row == 50279)):
            text = b"".join(spelled[i] for i in document.tolist() if i != 50279)
            expected.update((s.kind, s.true) for s in statements(text))
    for kind, found in there["references"].items():
        assert (found["true"], found["false"]) == (expected[kind, True], expected[kind, False])
    assert expected["R_add", True] > 100
    for item in Reference.load(tmp_path / "references" / "R_add.json").items:
        tokens = np.fromfile(tmp_path / "stage" / item.shard, np.uint16)
        first, end = item.offset - len(item.context), item.offset + len(item.answer)
        assert tokens[first:end].tolist() == [*item.context, *item.answer]
        assert first // LENGTH == (end - 1) // LENGTH


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(3, 30), st.sampled_from([3, 40, 100]))
def test_any_cut_of_a_stream_is_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    web: tuple[str, Faults],
    folder: Path,
    seed: int,
    most: int,
    chunk: int,
    n: int,
) -> None:
    """Shards of any length, in stretches, parts and chunks of any size."""
    url, _ = web
    rng = np.random.default_rng(seed)
    names = [f"cut/{number}.npy" for number in range(2)]
    (folder / "root" / "cut").mkdir(exist_ok=True)
    for name in names:
        rng.integers(0, 14, rng.integers(n, 8 * n)).astype(np.uint16).tofile(folder / "root" / name)
    paths = [folder / "root" / name for name in names]
    tasks = tasks_of("a", "b", n_values=3, size=14)
    remote = RemoteShards(open_source(url), names, [path.stat().st_size for path in paths], 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece, "CHUNK", chunk)
        patch.setattr(piece, "AROUND", 9)
        patch.setattr(scan, "PIECE", 41)
        patch.setattr(chunks, "STREAMED", most)
        assert repr(scan_here(remote, vocabulary(14), tasks)) == repr(
            scan_here(TokenShards(paths, 3), vocabulary(14), tasks)
        )


def test_statements_over_the_cuts_of_a_stream(
    folder: Path, web: tuple[str, Faults], dolma: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = web
    remote = RemoteShards(open_source(url), NAMES, sizes(folder), LENGTH, vocab_size=50280)
    options = ReferenceOptions(context=200, items=10_000)
    whole = scan_here(local_shards(folder), dolma, [], options).statements
    monkeypatch.setattr(scan, "PIECE", 300)
    monkeypatch.setattr(chunks, "STREAMED", 200)
    parts = scan_here(remote, dolma, [], options).statements
    assert whole.keys() == parts.keys() == {"R_add", "R_cmp"}
    for kind, found in whole.items():
        theirs = parts[kind]
        assert (found.true, found.false, found.unaligned) == (theirs.true, theirs.false, theirs.unaligned)
        assert found.items == theirs.items


def test_what_contradicts_the_experiment_is_refused(folder: Path, tmp_path: Path) -> None:
    staged(folder, tmp_path / "stage")
    experiment = load_experiment(folder / "anywhere-run.yaml", ["train.global_train_batch_size=16"])
    with pytest.raises(UserError, match="batch size: 16, but .* was staged with 8"):
        scan_experiment(str(tmp_path / "stage"), experiment, ScanOptions())
    with pytest.raises(UserError, match="--root and --manifest: for a named corpus, and .* is a folder"):
        scanned(str(tmp_path / "stage"), folder, root="/x")
    experiment = load_experiment(
        folder / "anywhere-run.yaml", ["corpus.name=null", "corpus.root=null", f"corpus.folder={tmp_path}/stage"]
    )
    with pytest.raises(UserError, match="for a named corpus, and the experiment's is none"):
        scan_experiment("-", experiment, ScanOptions(root="/x"))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(experiment_yaml(experiment))
    with pytest.raises(UserError, match="--root and --manifest: for a named corpus, which the corpus of .* is not"):
        open_corpus(str(resolved), "/x", None, Shape())


def test_a_shard_that_has_changed_ends_the_search_in_one_line(folder: Path, web: tuple[str, Faults]) -> None:
    url, _ = web
    catalog = str(folder / "anywhere.yaml")
    with pytest.raises(SystemExit):
        main(["corpus", "manifest", catalog, "--root", url])
    path = folder / "root" / NAMES[1]
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\0\0")
        with pytest.raises(UserError, match=r"part-1\.npy has .* where the manifest records .*: it has changed"):
            scanned(catalog, folder, root=url)
    finally:
        path.write_bytes(content)
