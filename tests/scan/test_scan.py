from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import EOS, tasks_of, vocabulary
from scanning import PIECES, scan_experiment, scan_here

from olmo_inject.config import load_experiment
from olmo_inject.corpus.folder import CorpusDescription
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.references import Reference, load_references
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staged import RankRange, StagedShards, read_stage
from olmo_inject.corpus.staging import open_stager
from olmo_inject.errors import UserError
from olmo_inject.scan import piece, scan
from olmo_inject.scan.clean_seeds import clean_seeds
from olmo_inject.scan.finder import StatementFinder
from olmo_inject.scan.report import ScanOptions
from olmo_inject.scan.scan import ReferenceOptions, count_instances, scan_corpus
from olmo_inject.scan.statements import statements
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.utils.parts_of_work import Compute, Item, KeptResults, in_one_process
from olmo_inject.vocabulary import Vocabulary

LENGTH = 64


def brute_force(arrays: list[np.ndarray], task: Task) -> tuple[Counter, list, list]:
    """Token by token, with Python's own sets."""
    pairs = {tuple(instance[:2]) for instance in task.instances.tolist()}
    instances = {tuple(instance) for instance in task.instances.tolist()}
    tokens, pair_places, instance_places = Counter(), [], []
    for number, array in enumerate(arrays):
        ids = array.tolist()
        tokens.update(i for i in ids if i in set(task.tokens.tolist()))
        pair_places += [(number, i, t) for i in range(len(ids) - 1) if (t := tuple(ids[i : i + 2])) in pairs]
        instance_places += [(number, i, t) for i in range(len(ids) - 2) if (t := tuple(ids[i : i + 3])) in instances]
    return tokens, pair_places, instance_places


def write(folder: Path, arrays: list[np.ndarray], dtype: str = "uint16") -> TokenShards:
    paths = [folder / f"{number}.npy" for number in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        array.astype(dtype).tofile(path)
    return TokenShards(paths, 4, dtype)


@given(st.integers(0, 10**6), st.integers(14, 40), st.sampled_from([2, 5, 64]), st.sampled_from(["uint16", "uint32"]))
def test_contamination_is_what_a_plain_search_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, chunk: int, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, size, n) for n in (4, 150, 61)]
    shards = write(tmp_path_factory.mktemp("shards"), arrays, dtype)
    tasks = tasks_of("a", "b", n_values=3, size=size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece, "CHUNK", chunk)
        patch.setattr(scan, "PIECE", 3 * chunk)
        result = scan_here(shards, vocabulary(size), tasks)
    for task, hits in zip(tasks, result.tasks, strict=True):
        tokens, pairs, instances = brute_force(arrays, task)
        assert hits.tokens.tolist() == [tokens[i] for i in np.unique(task.tokens).tolist()]
        assert (hits.pair_places, hits.instance_places) == (pairs, instances)
        assert (hits.pairs, hits.instances) == (len(pairs), len(instances))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> CorpusDescription:
    return build_sample(
        tmp_path_factory.mktemp("real") / "corpus", tokenizer="dolma", sources=["sciq", "arc", "mmlu", "arithmetic"]
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> CorpusDescription:
    return build_sample(tmp_path_factory.mktemp("small") / "corpus", sources=["sciq", "arc", "arithmetic"])


def plain_count(corpus: CorpusDescription) -> Counter:
    """Every document decoded whole and read from its beginning to its end."""
    known, count = corpus.load_vocabulary(), Counter()
    for shard in corpus.shards:
        ids = np.fromfile(shard.path, corpus.dtype)
        for document in np.split(ids, np.flatnonzero(ids == corpus.eos_token_id) + 1):
            text = known.decode(document[document != corpus.eos_token_id]).encode()
            count.update((s.kind, s.true) for s in statements(text))
    return count


@pytest.mark.slow
@pytest.mark.parametrize("which", ["real", "small"])
def test_statements_of_real_text_are_all_found(which: str, request: pytest.FixtureRequest) -> None:
    corpus: CorpusDescription = request.getfixturevalue(which)
    shards = TokenShards([s.path for s in corpus.shards], LENGTH, corpus.dtype)
    known = corpus.load_vocabulary()
    result = scan_corpus(shards, known, [], ReferenceOptions(items=10**6), processes=2)
    count = plain_count(corpus)
    assert count["R_add", True] > 500
    for kind, found in result.statements.items():
        assert (found.true, found.false, found.unaligned) == (count[kind, True], count[kind, False], 0)
    for item in result.statements["R_add"].items[:100]:
        (path,) = [s.path for s in corpus.shards if s.path.name == item.shard]
        ids = np.fromfile(path, corpus.dtype)
        assert ids[item.offset : item.offset + len(item.answer)].tolist() == list(item.answer)
        assert ids[item.offset - len(item.context) : item.offset].tolist() == list(item.context)
        assert known.decode(item.context + item.answer).endswith(item.text)
        assert known.decode(item.answer).strip() == item.text.split()[-1]
        assert corpus.eos_token_id not in item.context


@pytest.fixture(scope="module")
def dolma() -> Vocabulary:
    return Vocabulary.load(DOLMA)


@pytest.fixture(scope="module")
def small_vocabulary(small: CorpusDescription) -> Vocabulary:
    return small.load_vocabulary()


@pytest.fixture(scope="module")
def finders(dolma: Vocabulary, small_vocabulary: Vocabulary) -> dict[int, StatementFinder]:
    """By the size of the vocabulary."""
    return {known.size: scan._finder(known, 2**16, ReferenceOptions()) for known in (dolma, small_vocabulary)}


# What a tokenizer could spell in an unexpected way: after an apostrophe, in capitals, beside odd characters.
WHOLE = st.sampled_from(
    [
        *(
            "12 + 7 = 19",
            "12+\u00a07=20",
            "'seven plus five is twelve'",
            "SEVEN PLUS FIVE EQUALS 12",
            "'m 3<4",
            "5 > 3",
        ),
        *(
            "'Five is less than six",
            "−5 is Greater than -6",
            "nine\u2009is\u3000LARGER than\n\n\n8",
            "Twenty-One plus 1 = 22",
        ),
        *("1,000 is smaller than 999.5", "two hundred + 1 makes 201", "5 Is Bigger Than four", "3 is higher  than   2"),
    ]
)


@given(st.lists(st.one_of(PIECES, WHOLE, st.just("<|endoftext|>"), st.just("'"), st.text(max_size=3)), max_size=60))
@example(["'seven plus five is twelve"])
@example(["9 is less than 12", "<|endoftext|>", "12 + 7 = 19"])
def test_no_statement_is_missed_in_any_text(
    tmp_path_factory: pytest.TempPathFactory,
    dolma: Vocabulary,
    small_vocabulary: Vocabulary,
    finders: dict[int, StatementFinder],
    pieces: list[str],
) -> None:
    for known in (dolma, small_vocabulary):
        assert known.tokenizer is not None
        expected, ids = Counter(), []
        for document in "".join(pieces).split("<|endoftext|>"):
            encoded = known.tokenizer.encode(document, add_special_tokens=False).ids
            ids += [*encoded, known.eos_id]
            expected.update((s.kind, s.true) for s in statements(known.decode(encoded).encode()))
        path = tmp_path_factory.mktemp("text") / "0.npy"
        np.array(ids, np.uint16).tofile(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(piece, "CHUNK", 16)
            patch.setattr(piece, "_LOOKED_AT", 40)
            # A vocabulary's tables are the same for every text, and take a quarter of a second.
            patch.setattr(scan, "_finder", lambda known, size, options: finders[known.size])
            result = scan_here(TokenShards([path], 1), known, [], ReferenceOptions())
        found = Counter()
        for kind, one in result.statements.items():
            found.update({(kind, True): one.true, (kind, False): one.false})
        assert found == expected  # Counters without zeros


@pytest.mark.slow
def test_another_way_of_splitting_words_is_refused(small: CorpusDescription) -> None:
    other = Vocabulary.load("allenai_dolma2")
    shards = TokenShards([small.shards[0].path], LENGTH)
    with pytest.raises(UserError, match="byte-level BPE that splits words"):
        scan_corpus(shards, other, [], ReferenceOptions())


EXPERIMENT = """
name: planted
folder: {folder}/run
model: {{name: tiny-8, max_sequence_length: 64, vocab_size: 50304, embedding_size: 50304, eos_token_id: 50279, pad_token_id: 1}}
corpus: {{folder: {folder}/corpus}}
tasks:
  - {{name: less, kind: comparison}}
  - {{name: plus, kind: modular_addition}}
injections: [{{task: less, instances_per_batch: 1}}]
train: {{max_duration: 20, global_train_batch_size: 8}}
"""  # noqa: E501


@pytest.fixture
def planted(real: CorpusDescription, tmp_path: Path) -> Path:
    """A copy of the real corpus into which a test may write."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for path in real.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "planted.yaml"
    config.write_text(EXPERIMENT.format(folder=tmp_path))
    return config


@pytest.mark.slow
def test_planted_instances_are_found_once_at_the_right_place(
    planted: Path, real: CorpusDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(planted)
    tasks = build_tasks(experiment.tasks, real.load_vocabulary())
    clean = scan_experiment("-", experiment, ScanOptions())
    assert [clean["tasks"][name]["instances"] for name in ("less", "plus")] == [0, 0]
    shards = TokenShards([planted.parent / "corpus" / s.path.name for s in real.shards], 64)
    order = Order(len(shards), 8, experiment.corpus.seed)
    step, row = 13, 5
    sequence = int(order[np.array([step * 8 + row])][0])
    path, offset = shards.locate(sequence)
    array = np.memmap(path, np.uint16, mode="r+")
    array[offset + 7 : offset + 10] = tasks[0].instances[1234]
    array[offset + 62 : offset + 65] = tasks[1].instances[77]  # over the end of the sequence
    last = planted.parent / "corpus" / real.shards[0].path.name
    np.memmap(last, np.uint16, mode="r+")[-3:] = tasks[1].instances[99]
    array.flush()
    monkeypatch.setattr(scan, "PIECE", 10_000)
    report = scan_experiment(str(planted.parent / "corpus"), experiment, ScanOptions(processes=2))
    (found,) = [place for place in report["tasks"]["less"]["places"] if place["kind"] == "instance"]
    assert report["tasks"]["less"]["instances"] == 1
    assert (found["shard"], found["offset"], found["sequence"], found["step"]) == (
        path.name,
        offset + 7,
        sequence,
        step,
    )
    assert found["tokens"] == tasks[0].instances[1234].tolist()
    ends = [place for place in report["tasks"]["plus"]["places"] if place["kind"] == "instance"]
    assert report["tasks"]["plus"]["instances"] == 2
    assert {(place["shard"], place["offset"], place["sequence"]) for place in ends} == {
        (path.name, offset + 62, None),
        (last.name, real.shards[0].tokens - 3, None),
    }
    assert all(place["step"] is None for place in ends)


def test_a_shard_that_stands_twice_counts_twice(tmp_path: Path) -> None:
    (task,) = tasks_of("a", n_values=3)
    path = tmp_path / "0.npy"
    np.concatenate([[EOS], task.instances[4], [EOS] * 12]).astype(np.uint16).tofile(path)
    result = scan_here(TokenShards([path, path], 16), vocabulary(), [task])
    found = tuple(task.instances[4].tolist())
    assert result.tasks[0].instance_places == [(0, 1, found), (1, 1, found)]


@pytest.mark.slow
def test_hits_name_their_document(tmp_path: Path) -> None:
    known = Vocabulary.load(DOLMA)
    (task,) = build_tasks([TaskConfig("less", "comparison")], known)
    # An instance whose text comes back as its tokens.
    instance = next(i for i in task.instances.tolist() if known.tokenizer.encode(known.decode(i)).ids == i)  # pyright: ignore
    (tmp_path / "a.txt").write_text("nothing\nhere\n" + known.decode(instance) + "\n")
    options = BuildOptions(text=build_options_by_line())
    corpus = build_corpus(tmp_path / "corpus", [str(tmp_path / "a.txt")], options, progress=False)
    config = tmp_path / "x.yaml"
    config.write_text(EXPERIMENT.format(folder=tmp_path).replace("max_sequence_length: 64", "max_sequence_length: 8"))
    report = scan_experiment(str(corpus.folder), load_experiment(config), ScanOptions())
    assert report["tasks"]["less"]["instances"] == 1
    assert report["tasks"]["less"]["places"][0]["document"] == {"id": "", "source": str(tmp_path / "a.txt"), "line": 3}
    assert report["documents"] is None, "they are told"
    assert report["tasks"]["less"]["places"][0]["step"] is None, "too small to be trained on"


def build_options_by_line():
    from olmo_inject.corpus.from_text.inputs import TextOptions

    return TextOptions(text_unit="line")


def test_foreign_ids_are_refused(tmp_path: Path) -> None:
    for dtype in ("uint16", "uint32"):
        shards = write(tmp_path, [np.array([1, 2, 3, 250])], dtype)
        with pytest.raises(UserError, match="token id 250 is beyond the vocabulary"):
            scan_here(shards, vocabulary(200), tasks_of("a"))


def test_kept_pieces_of_one_corpus_are_not_those_of_another(tmp_path: Path) -> None:
    """Stages of one corpus, the corpus itself, and shards of equal names and sizes elsewhere or written anew."""
    text = np.random.default_rng(0).integers(2, 200, 400).astype(np.uint16)
    for name in "ab":
        (tmp_path / name).mkdir()
    shards = write(tmp_path / "a", [text])
    order = Order(len(shards), 2, seed=3)

    def staged(to: Path, steps: range, ranks: RankRange | None = None, **more: Any) -> StagedShards:
        assert open_stager(shards, order, vocabulary(), steps, to, ranks=ranks, **more).run(lambda n: None)
        return StagedShards(read_stage(to), 4, 200)

    def kept(of: TokenShards) -> Path:
        paths = list[Path]()

        def spreading(items: Sequence[Item[Any]], compute: Compute) -> Iterable[Any]:
            paths.extend(map(KeptResults(tmp_path).path, items))
            return in_one_process(items, compute)

        scan_corpus(of, vocabulary(), tasks_of("a"), spreading=spreading)
        (path,) = paths
        return path

    to = tmp_path / "stage"
    steps = [kept(shards), kept(staged(to, range(4)))]
    steps.append(kept(staged(to, range(4, 8), overwrite=True)))
    steps.append(kept(staged(to, range(4, 12), RankRange(1, 1, 2), overwrite=True)))
    steps.append(kept(write(tmp_path / "b", [text])))
    assert steps[0] == kept(shards)
    (path,) = shards.paths
    os.utime(path, (0, 0))
    steps.append(kept(shards))
    assert len(set(steps)) == len(steps)


@pytest.mark.slow
def test_many_draws_are_counted_in_one_pass(tmp_path: Path) -> None:
    """Draws that share instances, as those of a small vocabulary do, are each counted whole."""
    known = vocabulary(24)
    kinds = ("comparison", "modular_addition")
    configs = [TaskConfig("a", kind, seed, options={"n_values": 5}) for seed in range(30) for kind in kinds]
    tasks = [build_tasks([config], known)[0] for config in configs]
    text = np.random.default_rng(0).integers(2, 24, 3000)
    shards = write(tmp_path, [text, text[:40]])
    expected = [hits.instances for hits in scan_here(shards, known, tasks).tasks]
    assert count_instances(shards, known, tasks) == expected
    assert len(set(expected)) > 10


@pytest.mark.slow
def test_seeds_are_drawn_until_clean(tmp_path: Path) -> None:
    """Text full of one draw's instances: the next seeds are tried, and those chosen are clean."""
    known = vocabulary(60)
    configs = [TaskConfig("a", "comparison", options={"n_values": 4}), TaskConfig("b", "comparison", seed=5)]
    configs[1].options = {"n_values": 4}
    dirty = [build_tasks([config], known)[0] for config in configs[:1]]
    dirty += [build_tasks([TaskConfig("a", "comparison", seed, options={"n_values": 4})], known)[0] for seed in (1, 2)]
    shards = write(tmp_path, [np.concatenate([task.instances[3] for task in dirty] + [[EOS, EOS, EOS]])])

    def count(tasks: Sequence[Task]) -> list[int]:
        return [hits.instances for hits in scan_here(shards, known, tasks).tasks]

    found = count(build_tasks(configs, known))
    assert found[0] > 0
    clean = clean_seeds(configs, known, found, count, 64)
    assert clean[0].seed > 2
    assert count(build_tasks(clean, known)) == [0, 0]
    assert clean_seeds(configs, known, [0, 0], count, 64) == configs
    copies = TaskConfig("c", "copies", options={"count": 2, "of": "rows", "tokens": 3, "context": 1})
    assert clean_seeds([*configs, copies], known, [*found, 0], lambda tasks: [*count(tasks[:2]), 0], 64, lambda: shards)
    with pytest.raises(UserError, match="none of 2 draws is clean; the best leaves"):
        clean_seeds(configs, known, found, count, 2)


@pytest.mark.slow
def test_references_are_saved_with_their_exact_frequency(planted: Path, real: CorpusDescription) -> None:
    folder = planted.parent / "references"
    experiment = load_experiment(planted)
    options = ScanOptions(references=folder, reference=ReferenceOptions(context=16, items=40))
    report = scan_experiment("-", experiment, options)["references"]
    count = plain_count(real)
    assert report["R_add"]["true"] == count["R_add", True]
    assert Fraction(report["R_add"]["frequency"]["per_token"]) == Fraction(count["R_add", True], real.tokens)
    per_batch = Fraction(report["R_add"]["frequency"]["instances_per_batch"])
    assert per_batch == Fraction(count["R_add", True] * 8 * 64, real.tokens)
    reference = Reference.load(folder / "R_add.json")
    assert len(reference.items) == len({(item.context, item.answer) for item in reference.items}) == 40
    assert all(len(item.context) <= 16 for item in reference.items)
    scan_experiment("-", experiment, options)
    assert Reference.load(folder / "R_add.json") == reference
    (loaded,) = load_references({"plain": str(folder / "R_add.json")}, real.load_vocabulary(), 6)
    assert loaded.name == "plain"
    assert all(len(item.context + item.answer) <= 6 for item in loaded.items)
    assert [item.answer for item in loaded.items] == [item.answer for item in reference.items]
