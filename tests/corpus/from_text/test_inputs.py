"""Which files are read, and what is said of damaged ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from written_text import FORMATS, SMALL, TEXTS, expected_ids, ids_of, json_lines, parquet, zstd

from olmo_inject.corpus.from_text.build import build_corpus
from olmo_inject.corpus.from_text.inputs import TextOptions, find_inputs, skipped_files
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.errors import UserError

DAMAGED = {
    "no JSON": b'{"text": "cut off',
    "no object": b'["text"]',
    "no text": b'{"id": "x"}',
    "text is a number": b'{"text": 3}',
    "no UTF-8": b'{"text": "\xff"}',
    "half a surrogate pair": b'{"text": "\\ud800"}',
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_is_named_or_counted(damage: str, tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl.zst"
    zstd(source, json_lines(TEXTS[:90]) + DAMAGED[damage] + b"\n" + json_lines(TEXTS[90:], 90))
    with pytest.raises(UserError, match=r"t\.jsonl\.zst: line 91 is damaged: ") as refused:
        build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    assert "\n" not in str(refused.value)
    # What was written until then is taken up.
    skipping = BuildOptions(shard_tokens=3000, skip_damaged=True)
    corpus = build_corpus(tmp_path / "out", [str(source)], skipping, progress=False)
    assert corpus.sources[str(source)]["damaged"] == 1
    assert np.array_equal(ids_of(corpus), expected_ids(TEXTS, corpus.load_vocabulary()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.json.gz", "t.jsonl.zst"])
def test_a_file_that_breaks_off(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 2000)
    with pytest.raises(UserError, match=rf"{name}: line \d+ is damaged: "):
        build_corpus(tmp_path / "out", [str(tmp_path / name)], SMALL, progress=False)
    skipping = replace(SMALL, skip_damaged=True)
    zstd(tmp_path / "whole.jsonl.zst", json_lines(TEXTS))
    sources = [str(tmp_path / file) for file in (name, "whole.jsonl.zst")]
    corpus = build_corpus(tmp_path / "out", sources, skipping, progress=False)
    assert [(of["damaged"], of["broken_off"]) for of in corpus.sources.values()] == [(1, 1), (0, 0)]
    broken, whole = (of["documents"] + of["empty"] for of in corpus.sources.values())
    assert broken < whole == len(TEXTS)


@pytest.mark.slow
def test_missing_column_and_source(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no column body; there are text, id, more"):
        build_corpus(
            tmp_path / "out",
            [str(tmp_path / "t.parquet")],
            BuildOptions(text=TextOptions(text_field="body")),
            progress=False,
        )
    with pytest.raises(UserError, match="neither a file nor a folder"):
        find_inputs([str(tmp_path / "nothing")], TextOptions())


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (here / "a").mkdir(parents=True)
    (here / "a" / "1.txt").write_text("one")
    (elsewhere / "2.txt").write_text("two")
    (elsewhere / "deep" / "3.txt").write_text("three")
    (here / "linked").symlink_to(elsewhere)
    (here / "again").symlink_to(elsewhere / "deep")  # as all of `linked` is
    (elsewhere / "deep" / "loop").symlink_to(here)
    (here / "gone.txt").symlink_to(tmp_path / "nowhere")
    found = [Path(one.path).relative_to(here) for one in find_inputs([str(here)], TextOptions())]
    assert found == [Path("a/1.txt"), Path("again/3.txt"), Path("linked/2.txt")]
    assert skipped_files([str(here)]) == [str(here / "gone.txt")]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    latin1 = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / "in" / latin1).write_text("b")
    for source in (tmp_path / "in", tmp_path / "in" / latin1):
        with pytest.raises(UserError, match="the name is not UTF-8; rename it"):
            build_corpus(tmp_path / "out", [str(source)], SMALL, progress=False)
    assert not (tmp_path / "out").exists()
