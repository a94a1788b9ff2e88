"""Texts of any length are found where they stand, exactly or with words changed, however the corpus is divided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import vocabulary
from scanning import scan_experiment, scan_here

from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.scan import piece, scan
from olmo_inject.scan.piece import ScanResult
from olmo_inject.scan.report import ScanOptions
from olmo_inject.scan.text_index import RUN, SHARED, TextIndex
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.utils.output_file import SCAN, check_output

EXACT = 2.0


class Rows(TokenShards):
    """Shards whose sequences are separate texts, as a stage's."""

    is_running_text = False


def texts_task(folder: Path, texts: Sequence[Sequence[int]], name: str = "mine") -> Task:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": list(map(int, text))}) + "\n" for text in texts))
    (task,) = build_tasks([TaskConfig(name, "texts", options={"file": str(path)})], vocabulary())
    return task


def plain_search(text: list[int], row: list[int], all_texts: list[list[int]], near: float) -> dict[int, float]:
    """Where a text stands in one row, and the share of its runs there, by the definition in words."""
    width, length = min(RUN, len(text)), len(text)
    runs = [tuple(text[i : i + width]) for i in range(length - width + 1)]
    times = [
        sum(tuple(other[i : i + width]) == run for other in all_texts for i in range(len(other) - width + 1))
        for run in runs
    ]
    counted = [i for i, n in enumerate(times) if n <= max(SHARED, min(times)) and len(runs) > 1]
    at = {d: EXACT for d in range(len(row) - length + 1) if row[d : d + length] == text}
    stands: dict[int, set[int]] = {}
    for p in range(len(row) - width + 1):
        for i in counted:
            if tuple(row[p : p + width]) == runs[i]:
                stands.setdefault(p - i, set()).add(i)
    slack = max(RUN, length // 4)
    matched = {d: len(set().union(*(stands[e] for e in stands if d <= e <= d + slack))) for d in stands}
    enough = {d: m for d, m in matched.items() if m >= max(1, ceil(near * len(counted) - 1e-9))}
    for d, m in enough.items():
        best = all(m > n or (m == n and d <= e) for e, n in enough.items() if abs(d - e) < length)
        if d not in at and best and not any(at.get(e) == EXACT for e in range(d - length + 1, d + length)):
            at[d] = m / len(counted)
    return at


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Texts over few tokens, and shards that hold them whole, with tokens changed, missing and added."""
    tokens = st.integers(5, draw(st.sampled_from([6, 9, 150])))
    texts = draw(st.lists(st.lists(tokens, min_size=2, max_size=24), min_size=1, max_size=4, unique_by=tuple))
    shards = []
    for _ in range(draw(st.integers(1, 3))):
        shard: list[int] = draw(st.lists(tokens, min_size=8, max_size=20))
        for _ in range(draw(st.integers(0, 4))):
            piece = list(draw(st.sampled_from(texts)))
            for _ in range(draw(st.integers(0, 2))):
                where = draw(st.integers(0, len(piece)))
                piece[where : where + draw(st.integers(0, 2))] = draw(st.lists(tokens, max_size=2))
            shard += piece + draw(st.lists(tokens, max_size=9))
        shards.append(shard)
    return texts, shards


@given(corpora(), st.sampled_from([0.3, 0.5, 1.0]), st.sampled_from([3, 16, 64]), st.sampled_from([None, 8, 31]))
@example(([[7] * 9], [[7] * 40, [7] * 12]), 0.5, 3, None)
@example(
    ([[5, 6, 7, 8, 20 + n] for n in range(20)] + [[5, 6, 7, 8, 10, 11]], [[5, 6, 7, 8, 10, 9, 9, 9]]), 0.5, 16, None
)
def test_texts_are_where_a_plain_search_finds_them(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: tuple[list[list[int]], list[list[int]]],
    near: float,
    chunk: int,
    row: int | None,
) -> None:
    texts, arrays = corpus
    folder = tmp_path_factory.mktemp("texts")
    paths = [folder / f"{number}.npy" for number in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.array(array, np.uint16).tofile(path)
    shards = TokenShards(paths, 4) if row is None else Rows(paths, row if any(len(a) >= row for a in arrays) else 4)
    length = shards.sequence_length
    index = TextIndex([texts_task(folder, texts)], near)
    distinct = index.texts.tolist()
    expected: dict[tuple[int, int, int], float] = {}
    for number, array in enumerate(arrays):
        for first in [0] if row is None else range(0, len(array), length):
            part = array if row is None else array[first : first + length]
            for which, text in enumerate(distinct):
                for start, share in plain_search(text, part, distinct, near).items():
                    at = which, number, first + max(0, start)
                    expected[at] = max(share, expected.get(at, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece, "CHUNK", chunk)
        patch.setattr(piece, "_LOOKED_AT", 2 * chunk)
        patch.setattr(scan, "PIECE", 3 * chunk)
        patch.setattr("olmo_inject.scan.text_hits.PLACES", 10**6)
        result = scan_here(shards, vocabulary(), [], None, index)
        hits = ScanResult.from_record(json.loads(json.dumps(result.record()))).texts  # as a job of a cluster keeps it
    assert hits is not None
    found = {(p.text, p.place.shard, p.place.offset): EXACT if p.exact else p.share for p in hits.places}
    assert found == expected
    for which in range(len(distinct)):
        mine = [share for (text, *_), share in expected.items() if text == which]
        assert hits.exact[which] == mine.count(EXACT)
        assert hits.near[which] == len(mine) - mine.count(EXACT)
        assert hits.nearest[which] == max((share for share in mine if share != EXACT), default=0)
    for place in hits.places:
        here = arrays[place.place.shard][place.place.offset :]
        assert list(place.place.tokens) == here[: len(place.place.tokens)]


WORDS = ["amber", "bridge", "candle", "dragon", "ember", "forest", "garden", "harbor", "island", "jungle", "kettle"]
PASSAGE = "The moon of Kessa is made of green glass, and every winter the people of the coast sail out to polish it."
CHANGED = PASSAGE.replace("green glass", "blue stone").replace("every winter the", "every winter all the")
TEXTS = {
    "twice": "The last king of Orlin kept bees in his crown.",
    "changed": PASSAGE,
    "absent": "Nobody in Brelow has ever seen a left-handed clock.",
    "across": "Seven bells of Tarn ring only under the sea.",
}
EXPERIMENT = """
name: seen
folder: {folder}/run
model: {{name: tiny-8, max_sequence_length: 32, vocab_size: 50304, embedding_size: 50304, eos_token_id: 50279, pad_token_id: 1}}
corpus: {{folder: {folder}/corpus}}
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 20}}}}
  - {{name: mine, kind: texts, options: {{file: {folder}/mine.jsonl}}}}
injections:
  - {{task: less, instances_per_batch: 1}}
  - {{task: mine, groups: [often], schedule: repetitions, times: 6}}
  - {{task: mine, groups: [once], schedule: repetitions, times: 1}}
train: {{max_duration: 20, global_train_batch_size: 4}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of several shards: one text stands twice, one with words changed, one over the end of a sequence."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 60)) + "." for _ in range(40)]
    for number, text in ((3, TEXTS["twice"]), (38, TEXTS["twice"]), (20, CHANGED)):
        documents[number] = f"{documents[number]}\n{text}\n{documents[number]}"
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    corpus = build_corpus(
        folder / "corpus", [str(folder / "text.jsonl")], BuildOptions(shard_tokens=1500), progress=False
    )
    assert len(corpus.shards) > 1
    tokenizer = corpus.load_vocabulary().tokenizer
    assert tokenizer is not None
    tokens = tokenizer.encode(TEXTS["across"]).ids
    shard = np.memmap(corpus.shards[0].path, corpus.dtype, mode="r+")
    shard[32 * 7 - 3 : 32 * 7 - 3 + len(tokens)] = tokens
    shard.flush()
    lines = [
        {"id": name, "group": "often" if name == "twice" else "once", "text": text} for name, text in TEXTS.items()
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "seen.yaml").write_text(EXPERIMENT.format(folder=folder))
    return folder


def test_planted_texts_are_found_beside_their_injected_count(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    experiment = load_experiment(planted / "seen.yaml")
    monkeypatch.setattr(scan, "PIECE", 700)  # several pieces in each shard
    report = scan_experiment("-", experiment, ScanOptions())
    mine = report["tasks"]["mine"]
    counts = {text["instance"]: (text["injected"], text["exact"], text["near"]) for text in mine["texts"]}
    assert counts == {"twice": (6, 2, 0), "changed": (1, 0, 1), "absent": (1, 0, 0), "across": (1, 1, 0)}
    nearest = next(text["nearest"] for text in mine["texts"] if text["instance"] == "changed")
    assert 0.5 <= nearest < 1
    across = [place for place in mine["places"] if place["instance"] == "across"]
    assert [(place["offset"], place["sequence"], place["step"]) for place in across] == [(32 * 7 - 3, None, None)]
    twice = [place for place in mine["places"] if place["instance"] == "twice"]
    assert len({place["shard"] for place in twice}) == 2
    assert [place["document"]["line"] for place in twice] == [4, 39]
    assert "".join(twice[0]["text"]).replace("␣", " ") == TEXTS["twice"]
    assert report["tasks"]["less"]["instances"] == 0
    assert scan_experiment("-", experiment, ScanOptions(processes=2)) == report, "the same in any number of processes"
    far = scan_experiment("-", experiment, ScanOptions(near=0.95))["tasks"]["mine"]
    assert (far["instances"], far["near"]) == (3, 0)

    with pytest.raises(SystemExit) as ended:
        main(["corpus", "scan", "-", str(planted / "seen.yaml"), "--out", str(tmp_path / "report.json")])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "report.json").read_text())["tasks"]["mine"]["near"] == 1
    check_output(tmp_path / "report.json", SCAN, "--out")  # the same command may replace it
    out = capsys.readouterr().out
    assert "changed near (" in out
    assert "twice exact: 'The last king of Orlin" in out
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "scan", "-", str(planted / "seen.yaml"), "--near", "0"])
    assert ended.value.code == 2
    assert "--near: 0.0 must be above 0 and at most 1" in capsys.readouterr().err


def test_seeds_are_drawn_only_for_tasks_that_have_them(planted: Path) -> None:
    report = scan_experiment("-", load_experiment(planted / "seen.yaml"), ScanOptions(resample=4))
    assert report["clean_seeds"] == {"less": 0, "mine": 0}


def test_seeds_cannot_clean_a_corpus_of_texts(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "scan", "-", str(planted / "seen.yaml"), "--resample", "4", "--processes", "1"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "not clean: the corpus holds texts of mine (3 exact), and --resample changes no texts\n" in out
    assert "clean with the seeds given" not in out
