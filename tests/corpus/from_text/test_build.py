from __future__ import annotations

import csv
import gzip
import tempfile
from multiprocessing import process
from pathlib import Path

import numpy as np
import pytest
from written_text import FORMATS, SMALL, TEXTS, contents, expected_ids, ids_of, json_lines, mixed

from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.inputs import TextOptions, find_inputs
from olmo_inject.corpus.from_text.job import BuildOptions, make_jobs
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.corpus.provenance import Origin, origins_at, provenance_path, read_origins
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tokens_with_their_provenance(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    corpus = build_corpus(tmp_path / "out", [str(tmp_path / name)], SMALL, progress=False)
    vocabulary = corpus.load_vocabulary()
    assert np.array_equal(ids_of(corpus), expected_ids(TEXTS, vocabulary))
    assert corpus.documents == len(TEXTS) - 1 == np.count_nonzero(ids_of(corpus) == corpus.eos_token_id)
    assert corpus.sources[str(tmp_path / name)]["empty"] == 1
    assert len(corpus.shards) > 5
    assert all(shard.tokens <= 3000 for shard in corpus.shards)
    seen = []
    for shard in corpus.shards:
        ids, rows = np.fromfile(shard.path, corpus.dtype), list(read_origins(provenance_path(shard.path)))
        assert rows[0].start == 0
        assert rows[-1].end == len(ids)
        assert [row.end for row in rows[:-1]] == [row.start for row in rows[1:]]
        for row in rows:
            number = int(row.id[1:])
            assert vocabulary.decode(ids[row.start : row.end]) == TEXTS[number] + "<|endoftext|>"
            assert ids[row.end - 1] == corpus.eos_token_id
            seen.append(number)
            if name != "folder":
                assert row.line == number + 1
            elif row.source.endswith("2.json.gz"):
                assert row.line == number - 89
    assert seen == [i for i, text in enumerate(TEXTS) if text]


@pytest.mark.slow
def test_a_dataset_by_name_is_streamed_shard_by_shard(tmp_path: Path) -> None:
    mixed(tmp_path / "data")
    (tmp_path / "data" / "README.md").unlink()
    (tmp_path / "data" / ".hidden.jsonl").unlink()
    corpus = build_corpus(tmp_path / "out", [f"hf:{tmp_path / 'data'}"], SMALL, progress=False)
    assert sorted(ids_of(corpus).tolist()) == sorted(expected_ids(TEXTS, corpus.load_vocabulary()).tolist())
    rows = [row for shard in corpus.shards for row in read_origins(provenance_path(shard.path))]
    assert sorted(int(row.id[1:]) for row in rows) == [i for i, text in enumerate(TEXTS) if text]
    assert {row.source.rpartition("#")[0] for row in rows} == {f"hf:{tmp_path / 'data'}/train"}
    with pytest.raises(UserError, match=r"hf:.*cannot be opened") as refused:
        find_inputs([f"hf:{tmp_path / 'nothing'}"], TextOptions())
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_plain_text_by_file_or_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Erste Zeile\r\nzweite\n\nvierte ohne Ende")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("Übung".encode()))
    whole = build_corpus(tmp_path / "whole", [str(tmp_path)], BuildOptions(), progress=False)
    assert whole.load_vocabulary().decode(ids_of(whole)).split("<|endoftext|>") == [
        "Erste Zeile\r\nzweite\n\nvierte ohne Ende",
        "Übung",
        "",
    ]
    options = BuildOptions(text=TextOptions(text_unit="line"))
    lines = build_corpus(tmp_path / "lines", [str(tmp_path / "a.txt")], options, progress=False)
    assert lines.load_vocabulary().decode(ids_of(lines)) == "<|endoftext|>".join(
        ["Erste Zeile", "zweite", "vierte ohne Ende", ""]
    )
    assert [row.line for row in read_origins(provenance_path(lines.shards[0].path))] == [1, 2, 4]


@pytest.mark.slow
def test_tokenizers(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_bytes(json_lines(TEXTS))
    bpe = build_corpus(tmp_path / "bpe", [str(source)], BuildOptions("bpe", 600), progress=False)
    assert (bpe.vocab_size, bpe.eos_token_id, bpe.dtype) == (600, 0, "uint16")
    assert np.array_equal(ids_of(bpe), expected_ids(TEXTS, bpe.load_vocabulary()))
    own = tmp_path / "mine.json"
    (tmp_path / "bpe" / "tokenizer.json").rename(own)
    copied = build_corpus(tmp_path / "copied", [str(source)], BuildOptions(str(own)), progress=False)
    own.unlink()
    assert np.array_equal(ids_of(copied), ids_of(bpe))
    assert copied.load_vocabulary().size == 600
    wide = build_corpus(tmp_path / "wide", [str(source)], BuildOptions("allenai_dolma2"), progress=False)
    assert wide.dtype == "uint32"
    assert ids_of(wide).max() > 2**16
    assert np.array_equal(ids_of(wide), expected_ids(TEXTS, wide.load_vocabulary()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", b"x", {}, "not a known format"),
        ("a.parquet", b"x", {}, "is not a Parquet file"),
        ("a.jsonl", b"", {}, "no document with text"),
        ("a.jsonl", b'{"text": " "}\n', {}, "no document with text"),
        ("a.txt", b"abc\n\xff", {}, r"a\.txt: line 2 is damaged"),
        ("a.txt", b"abc", {"text": TextOptions(text_unit="word")}, "allowed are file, line"),
        ("a.txt", b"abc", {"tokenizer": "bpe", "vocab_size": 100}, "allowed is 258 to"),
        ("a.txt", b"abc", {"tokenizer": "gpt17"}, "no tokenizer gpt17"),
        ("a.txt", b"abc", {"shard_tokens": 0}, "must be at least 1"),
    ],
)
def test_mistakes(name: str, content: bytes, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_corpus(tmp_path / "out", [str(tmp_path / name)], BuildOptions(**options), progress=False)
    assert not (tmp_path / "out").exists(), "the corrected command finds the folder free"
    (tmp_path / "b.txt").write_text("b")
    before = contents(build_corpus(tmp_path / "out", [str(tmp_path / "b.txt")], SMALL, progress=False).folder)
    if not isinstance(options.get("text"), TextOptions) and options:
        sources = [str(tmp_path / name)]
        with pytest.raises(UserError, match=message):
            build_corpus(tmp_path / "out", sources, BuildOptions(**options), overwrite=True, progress=False)
        assert contents(tmp_path / "out") == before, "what cannot be built replaces nothing"


def test_no_room_for_sockets_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, long = tmp_path / "a.jsonl", tmp_path / ("x" * 110)
    source.write_bytes(json_lines(TEXTS[:3]))
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^TMPDIR: .* set TMPDIR to a folder with a shorter path"):
        build_corpus(tmp_path / "out", [str(source)], SMALL, processes=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_small_files_share_shards_and_sources_do_not(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(5):
            (tmp_path / folder / f"{number}.txt").write_text(f"{folder}{number}")
    sources = [str(tmp_path / "a"), str(tmp_path / "b")]
    jobs = make_jobs(find_inputs(sources, TextOptions()), tmp_path, BuildOptions(), Vocabulary.load(DOLMA))
    assert [[Path(one.path).stem for one in job.inputs] for job in jobs] == [list("01234")] * 2
    corpus = build_corpus(tmp_path / "out", sources, BuildOptions(), progress=False)
    assert [shard.path.name for shard in corpus.shards] == ["part-00000-000.npy", "part-00001-000.npy"]
    assert corpus.sources[sources[1]]["documents"] == 5


def test_the_document_at_a_token(tmp_path: Path) -> None:
    shard = tmp_path / "x.npy"
    with gzip.open(tmp_path / "x.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([(0, 4, "a,b", "f", 1), (4, 9, 'q"', "f", 2)])
    assert origins_at(shard, [8, 0, 4, 3, 9]) == [
        Origin(4, 9, 'q"', "f", 2),
        Origin(0, 4, "a,b", "f", 1),
        Origin(4, 9, 'q"', "f", 2),
        Origin(0, 4, "a,b", "f", 1),
        None,
    ]
    assert origins_at(tmp_path / "y.npy", [1]) == [None]
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(b""))
    assert origins_at(tmp_path / "y.npy", [1]) == [None]
    (tmp_path / "y.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="is not a provenance file"):
        origins_at(tmp_path / "y.npy", [1])
