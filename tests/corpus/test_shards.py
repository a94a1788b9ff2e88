"""Shards read as ai2-olmo reads them, at any layout; and files that hold something else."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import write_shards
from olmo.data import MemMapDataset

from olmo_inject.config import CorpusConfig
from olmo_inject.corpus.kinds import find_corpus
from olmo_inject.corpus.shards import DTYPES, TokenShards
from olmo_inject.errors import UserError


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.integers(1, 12),
    st.sampled_from(sorted(DTYPES)),
)
@example([1], [0], 1, "uint16")
@example([1, 40, 1, 3, 12], [0, 1, 2, 3, 4], 4, "uint32")
@example([8, 8], [1, 0, 1, 1], 8, "uint16")
def test_sequences_are_those_of_ai2_olmo(lengths: list[int], chosen: list[int], length: int, dtype: str) -> None:
    """Remainders unused, shards too short skipped, repeated paths counted again."""
    with TemporaryDirectory() as folder:
        written = write_shards(Path(folder), lengths, dtype)
        paths = [written[i % len(written)] for i in chosen]
        theirs = MemMapDataset(*paths, chunk_size=length, memmap_dtype=DTYPES[dtype], include_instance_metadata=False)
        if len(theirs) == 0:
            with pytest.raises(UserError, match=f"no shard holds a whole sequence of {length} tokens"):
                TokenShards(paths, length, dtype)
            return
        ours = TokenShards(paths, length, dtype)
        assert len(ours) == len(theirs)
        expected = np.stack([theirs[i]["input_ids"].numpy() for i in range(len(theirs))])
        np.testing.assert_array_equal(ours.read(np.arange(len(ours))), expected)
        backwards = pickle.loads(pickle.dumps(ours)).read(np.arange(len(ours))[::-1])
        np.testing.assert_array_equal(backwards, expected[::-1])
        for sequence in range(len(ours)):
            path, start = ours.locate(sequence)
            found = np.fromfile(path, DTYPES[dtype])[start : start + length]
            np.testing.assert_array_equal(found, expected[sequence])


def test_sequences_beyond_the_corpus(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [10, 7]), 4)
    assert shards.read(np.empty(0, np.int64)).shape == (0, 4)
    for outside in (-1, 3):
        with pytest.raises(IndexError, match=r"are not all in 0\.\.2"):
            shards.read(np.array([0, outside]))


def test_a_thousand_shards_under_a_low_limit_of_open_files(tmp_path: Path) -> None:
    """Dolma has 1,033; the usual soft limit is 1,024 descriptors."""
    paths = write_shards(tmp_path, [3] * 1033)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        assert len(TokenShards(paths, 3)) == 1033
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": []}, "there are no shards"),
        ({"sequence_length": 0}, "sequence length 0 must be at least 1"),
        ({"sequence_length": -1}, "sequence length -1 must be at least 1"),
        ({"sequence_length": 101}, r"no shard holds a whole sequence of 101 tokens \(the first is .*part-00000\.npy"),
        ({"dtype": "int16"}, "dtype 'int16' is not one of uint8, uint16, uint32, uint64"),
        ({"paths": ["absent.npy"]}, r"cannot read shard .*absent\.npy: No such file or directory"),
        ({"paths": ["."]}, "cannot read shard .*: Is a directory"),
        ({"paths": ["odd.npy"]}, r"odd\.npy has 201 bytes, not a positive multiple of 2 \(uint16\): truncated\?"),
        ({"paths": ["odd.npy"], "dtype": "uint64"}, r"odd\.npy has 201 bytes, not a positive multiple of 8"),
        ({"paths": ["empty.npy"]}, r"empty\.npy has 0 bytes, not a positive multiple of 2"),
        ({"paths": ["header.npy"]}, r"header\.npy is not a shard of token ids but a NumPy file; shards are raw arrays"),
        ({"dtype": "uint8", "vocab_size": 257}, "dtype uint8 cannot hold the ids of a vocabulary of 257"),
        ({"vocab_size": 2**16 + 1}, "dtype uint16 cannot hold the ids of a vocabulary of 65537"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    (good,) = write_shards(tmp_path, [100])
    (tmp_path / "odd.npy").write_bytes(good.read_bytes() + b"\0")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "header.npy", np.zeros(100, np.uint16))
    arguments = {"paths": [good], "sequence_length": 4, **arguments}
    with pytest.raises(UserError, match=f"^corpus: .*{message}") as refused:
        TokenShards([tmp_path / path for path in arguments.pop("paths")], **arguments)
    assert "\n" not in str(refused.value)


PAGE = b"<!DOCTYPE html>\n<html><head><title>Not Found</title></head><body>The page is gone.</body></html>\n" * 2
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a214614ab2935" * 4 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PAGE, "a web page"),
        (POINTER, "a Git LFS pointer"),
        ("Ünïcode tëxt, in nearly any language: 数学は楽しい. ".encode() * 200, "text"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "a gzip file"),
    ],
)
def test_what_holds_no_tokens_is_refused(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "page.npy"
    path.write_bytes(content + b" " * (-len(content) % 4))
    with pytest.raises(UserError, match=rf"^corpus: .*page\.npy is not a shard of token ids but {what}"):
        TokenShards([path], 4, "uint16", 50_280)


def test_what_looks_like_text_but_is_tokens_is_read(tmp_path: Path) -> None:
    """A corpus of bytes, one token many times, and a few tokens by chance."""
    path = tmp_path / "shard.npy"
    for content, dtype in ((PAGE, "uint8"), (b"ab" * 500, "uint16"), (PAGE[:32], "uint16")):
        path.write_bytes(content)
        assert len(TokenShards([path], 4, dtype)) == len(content) // np.dtype(dtype).itemsize // 4


def test_a_path_that_holds_brackets_is_taken_as_it_stands(tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, [40])
    odd = shard.rename(tmp_path / "part[1].npy")
    config = CorpusConfig(paths=[str(odd)], vocab_size=10, eos_token_id=0, pad_token_id=1)
    assert find_corpus(config).paths == [odd]


def test_the_largest_vocabulary_of_a_dtype(tmp_path: Path) -> None:
    assert len(TokenShards(write_shards(tmp_path, [4]), 4, vocab_size=2**16)) == 1


def test_ids_beyond_the_vocabulary_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [40, 40], ids=100)
    tokens = np.fromfile(paths[1], np.uint16)
    tokens[13] = 150
    tokens.tofile(paths[1])
    assert len(TokenShards(paths, 8, vocab_size=151).read(np.arange(10))) == 10
    shards = TokenShards(paths, 8, vocab_size=150)
    shards.read(np.array([0, 5, 7]))
    with pytest.raises(UserError, match=r"part-00001\.npy holds token id 150 in sequence 6, at or beyond .* of 150"):
        shards.read(np.array([7, 6, 0]))
    with pytest.raises(UserError, match="in sequence 6, at or beyond the vocabulary of 150: wrong tokenizer or dtype"):
        shards.check_sample()


@pytest.mark.parametrize("top", [200, 2**16])
def test_shards_of_a_wider_dtype_are_noticed(top: int, tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [400], "uint32", ids=top)
    with pytest.raises(UserError, match=r"every other token is 0, so .*part-00000\.npy looks wider than uint16"):
        TokenShards(paths, 8, "uint16", 2**16).check_sample()
    TokenShards(paths, 8, "uint32", 2**16).check_sample()


def test_shards_of_a_narrower_dtype_are_noticed(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [400], "uint16")
    with pytest.raises(UserError, match=r"wrong tokenizer or dtype \(uint32\)"):
        TokenShards(paths, 8, "uint32", 50_280).check_sample()


def test_the_sample_covers_the_whole_corpus(tmp_path: Path) -> None:
    """A foreign shard is found wherever it stands among many."""
    for foreign in (0, 17, 29):
        paths = write_shards(tmp_path / str(foreign), [80] * 30, ids=100)
        np.full(80, 300, np.uint16).tofile(paths[foreign])
        with pytest.raises(UserError, match=f"part-000{foreign:02d}"):
            TokenShards(paths, 8, vocab_size=100).check_sample()


def test_fingerprint_follows_what_sequences_depend_on(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "here", [40, 48])
    base = TokenShards(paths, 8).fingerprint()
    assert TokenShards(write_shards(tmp_path / "there", [40, 48]), 8).fingerprint() == base, "it may be moved"
    others = [
        TokenShards(paths[::-1], 8),
        TokenShards([*paths, paths[0]], 8),
        TokenShards(paths, 4),
        TokenShards(paths, 8, "uint32"),
        TokenShards(write_shards(tmp_path / "longer", [40, 49]), 8),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 1 + len(others)
