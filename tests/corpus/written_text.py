"""Text in every format that corpora are built from, and what a corpus of it holds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from olmo_inject.corpus.folder import CorpusDescription
from olmo_inject.corpus.from_text.job import BuildOptions
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.vocabulary import Vocabulary

# Real text, and what a tokenizer may trip over; one document is empty.
TEXTS = [
    *documents(["boolq"])["boolq"][:120],
    "Ends here<|endoftext|>and goes on <|padding|>",
    "",
    "naïve façade — 12\u00a0+\u20097 = 19 🎉 中文\r\nнаконец",
    *documents(["sciq"])["sciq"][:80],
]
SMALL = BuildOptions(shard_tokens=3000)


def json_lines(texts: list[str], first: int = 0) -> bytes:
    lines = [json.dumps({"id": f"d{first + i}", "text": text, "source": "x"}) for i, text in enumerate(texts)]
    return ("\n".join(lines) + "\n").encode()


def zstd(path: Path, *frames: bytes) -> None:
    """Several frames in one file, as `zstd` appends them."""
    out = b""
    for frame in frames:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(frame)
        out += sink.getvalue().to_pybytes()
    path.write_bytes(out)


def parquet(path: Path) -> None:
    ids = [f"d{i}" for i in range(len(TEXTS))]
    pq.write_table(pa.table({"text": TEXTS, "id": ids, "more": ids}), path, row_group_size=50)


def saved(path: Path) -> None:
    ids = [f"d{i}" for i in range(len(TEXTS))]
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": TEXTS, "id": ids}).save_to_disk(str(path), num_shards=3)


def mixed(folder: Path) -> None:
    """A folder with files of several kinds in folders, read in the order of their names."""
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden.jsonl").write_text("no JSON")
    (folder / "README.md").write_text("no text")
    (folder / "a.json").write_bytes(json_lines(TEXTS[:7]))
    zstd(folder / "b" / "1.json.zst", json_lines(TEXTS[7:50], 7), json_lines(TEXTS[50:90], 50))
    (folder / "b" / "2.json.gz").write_bytes(gzip.compress(json_lines(TEXTS[90:], 90)))


def gzip_members(path: Path) -> None:
    """Two members in one file, as `gzip` appends them."""
    path.write_bytes(gzip.compress(json_lines(TEXTS[:50])) + gzip.compress(json_lines(TEXTS[50:], 50)))


FORMATS: dict[str, Callable[[Path], object]] = {
    "t.jsonl": lambda path: path.write_bytes(json_lines(TEXTS)),
    "t.json.gz": gzip_members,
    "t.jsonl.zst": lambda path: zstd(path, json_lines(TEXTS)),
    "t.parquet": parquet,
    "saved": saved,
    "folder": mixed,
}


def ids_of(corpus: CorpusDescription) -> np.ndarray:
    return np.concatenate([np.fromfile(shard.path, corpus.dtype) for shard in corpus.shards])


def expected_ids(texts: list[str], vocabulary: Vocabulary) -> np.ndarray:
    """Each document tokenized by itself, in the plainest way."""
    tokenizer = vocabulary.tokenizer
    assert tokenizer is not None
    tokenizer.encode_special_tokens = True
    parts = [[*tokenizer.encode(text, add_special_tokens=False).ids, vocabulary.eos_id] for text in texts if text]
    tokenizer.encode_special_tokens = False
    return np.concatenate([np.array(part) for part in parts])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
