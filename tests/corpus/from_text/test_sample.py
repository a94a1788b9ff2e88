import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo_inject.cli import main
from olmo_inject.corpus.folder import CorpusDescription, read_corpus_folder
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample, train_bpe
from olmo_inject.corpus.from_text.wheel_text import SOURCES, documents
from olmo_inject.errors import UserError

FEW = ["sciq", "openbookqa"]
EOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> CorpusDescription:
    return build_sample(tmp_path_factory.mktemp("sample") / "corpus", sources=FEW)


@pytest.fixture
def copied(built: CorpusDescription, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built.folder, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ids_of(corpus: CorpusDescription, shard: int) -> np.ndarray:
    return np.fromfile(corpus.shards[shard].path, dtype=corpus.dtype)


@pytest.mark.slow
def test_every_source_is_real_text_without_duplicates() -> None:
    found = documents()
    assert list(found) == list(SOURCES)
    every = [text for texts in found.values() for text in texts]
    assert len(every) == len(set(every)) > 50_000
    assert all(text and text == text.strip() for text in every)
    assert len(found["boolq"]) > 2_938, "the training set's passages come on top of the validation set's"
    assert not any("\nQuestion: " in text for text in found["boolq"])
    assert not any("[step]" in text for text in found["hellaswag"])
    assert any(text.startswith("A boy is running down a track. the boy lifts") for text in found["hellaswag"])
    assert "Calculate 38 + 54 = 92" in found["arithmetic"]
    assert "The flag of Libya is a plain rectangle of which color?\nGreen" in found["trivia_qa"]


def test_right_answers_follow_their_questions() -> None:
    sums = [text.split() for text in documents(["arithmetic"])["arithmetic"] if " + " in text]
    plain = [words for words in sums if len(words) == 6 and words[1].isdigit() and words[3].isdigit()]
    assert len(plain) > 500
    assert all(int(words[1]) + int(words[3]) == int(words[5].replace(",", "")) for words in plain)


def test_documents_round_trip_through_the_shards(built: CorpusDescription) -> None:
    vocabulary = built.load_vocabulary()
    for shard, (name, texts) in enumerate(documents(FEW).items()):
        ids = ids_of(built, shard)
        ends = np.flatnonzero(ids == built.eos_token_id)
        assert len(ends) == len(texts) == built.sources[name]["documents"]
        assert ends[-1] == len(ids) - 1
        for k in (0, len(texts) // 2, len(texts) - 1):
            start = 0 if k == 0 else ends[k - 1] + 1
            assert vocabulary.decode(ids[start : ends[k] + 1]) == texts[k] + EOS


def test_description_agrees_with_the_files(built: CorpusDescription) -> None:
    ids = np.concatenate([ids_of(built, shard) for shard in range(len(built.shards))])
    assert built.tokens == len(ids)
    assert built.documents == np.count_nonzero(ids == built.eos_token_id)
    assert ids.max() < built.vocab_size == 2048
    assert built.pad_token_id not in ids
    assert list(built.sources) == ["sciq", "openbookqa"]
    assert built.paths == [str(built.folder / "part-00000.npy"), str(built.folder / "part-00001.npy")]
    assert read_corpus_folder(built.folder) == built
    assert [path.name for path in built.folder.parent.iterdir()] == [built.folder.name]


def test_same_arguments_give_the_same_bytes(built: CorpusDescription, tmp_path: Path) -> None:
    # Another process, order of sources, number of threads and hash seed.
    code = "import sys; from pathlib import Path; from olmo_inject.corpus.from_text.sample import build_sample; "
    code += "build_sample(Path(sys.argv[1]), sources=sys.argv[2:], progress=False)"
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(tmp_path / "again"), *reversed(FEW)]
    subprocess.run(command, check=True, env=environment)
    assert contents(tmp_path / "again") == contents(built.folder)


def test_dolma_tokenizer(tmp_path: Path) -> None:
    corpus = build_sample(tmp_path / "dolma", tokenizer="dolma", sources=["openbookqa"])
    ids = ids_of(corpus, 0)
    assert (corpus.tokenizer, corpus.vocab_size, corpus.eos_token_id) == (DOLMA, 50280, 50279)
    assert corpus.documents == np.count_nonzero(ids == 50279) == 500
    text = documents(["openbookqa"])["openbookqa"][0]
    assert corpus.load_vocabulary().decode(ids[: np.flatnonzero(ids == 50279)[0]]) == text


def test_folder_can_be_moved(copied: Path, built: CorpusDescription) -> None:
    corpus = read_corpus_folder(copied)
    assert corpus.paths[0] == str(copied / "part-00000.npy")
    assert corpus.load_vocabulary() == built.load_vocabulary()


def test_existing_folder_is_refused_reused_or_overwritten(copied: Path) -> None:
    before = contents(copied)
    inode = (copied / "corpus.json").stat().st_ino
    with pytest.raises(UserError, match="not empty"):
        build_sample(copied, sources=FEW)
    assert build_sample(copied, sources=FEW, reuse=True).folder == copied
    assert (copied / "corpus.json").stat().st_ino == inode
    others: list[dict[str, Any]] = [{"vocab_size": 512}, {"tokenizer": "dolma"}, {"sources": ["sciq"]}]
    for other in others:
        with pytest.raises(UserError, match="another tokenizer or of other sources"):
            build_sample(copied, **{"sources": FEW, "reuse": True, **other})
    assert contents(copied) == before
    corpus = build_sample(copied, sources=["openbookqa"], vocab_size=512, overwrite=True, reuse=True)
    assert (corpus.vocab_size, len(corpus.shards)) == (512, 1)
    assert sorted(contents(copied)) == ["corpus.json", "part-00000.npy", "tokenizer.json"]
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_the_command_again_finds_its_corpus(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copied)
    command = ["corpus", "sample", "--out", str(copied), "--source", "sciq", "--source", "openbookqa"]
    for more, status, said in (
        ([], 0, f"{copied}: already there, "),
        (["--vocab-size", "512"], 2, "another tokenizer or of other sources; --overwrite replaces it"),
        (["--overwrite"], 0, f"{copied}: 1"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*command, *more])
        assert end.value.code == status
        assert said in "".join(capsys.readouterr())
        assert contents(copied) == before


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert build_sample(tmp_path / "empty", sources=["openbookqa"], vocab_size=300).documents == 500


def test_overwrite_never_removes_what_is_no_corpus(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        build_sample(copied, sources=FEW, overwrite=True)
    assert (copied / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": "gpt2"}, "allowed are bpe and dolma"),
        ({"vocab_size": 257}, "allowed is 258 to 65536"),
        ({"vocab_size": 65537}, "allowed is 258 to 65536"),
        ({"sources": ["wikipedia"]}, "no text source wikipedia; there are boolq, "),
        ({"sources": []}, "no text source given"),
        ({"sources": ["openbookqa"], "vocab_size": 40_000}, "more than this text gives"),
    ],
)
def test_impossible_arguments_leave_nothing(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        build_sample(tmp_path / "corpus", **arguments)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        build_sample(tmp_path / "file", sources=FEW)
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        build_sample(tmp_path / "file" / "corpus", sources=FEW)


@pytest.mark.parametrize("reuse", [False, True])
def test_what_is_written_there_meanwhile_is_kept(reuse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpus"

    def write(*_: object) -> None:
        folder.mkdir()
        (folder / "mine").touch()

    monkeypatch.setattr("olmo_inject.corpus.from_text.sample._fill", write)
    with pytest.raises(UserError, match="exists and is not empty"):
        build_sample(folder, sources=FEW, reuse=reuse)
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus", "mine"]


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """The kernel's own refusal to write on; Python ignores the signal that goes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_disk_that_refuses_is_reported_and_the_old_corpus_stays(copied: Path) -> None:
    before = contents(copied)
    for limit in (1_000, 200_000):  # in the tokenizer, and in a shard after it
        with file_size_limit(limit), pytest.raises(UserError, match=r"cannot write .*File too large"):
            build_sample(copied, sources=FEW, overwrite=True)
        assert contents(copied) == before
        assert [path.name for path in copied.parent.iterdir()] == [copied.name]


@pytest.mark.slow
def test_killed_build_leaves_no_corpus(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from olmo_inject.corpus.from_text.sample import build_sample; "
    code += "build_sample(Path(sys.argv[1]), sources=['sciq', 'mmlu'], progress=False)"
    folder = tmp_path / "corpus"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".corpus.*.tmp/part-00000.npy")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "the build ended before it could be killed"
    assert not folder.exists()
    with pytest.raises(UserError, match="does not exist"):
        read_corpus_folder(folder)
    assert build_sample(folder, sources=["openbookqa"], vocab_size=300, reuse=True).documents == 500


def test_truncated_shard_is_named_with_both_sizes(copied: Path) -> None:
    shard = copied / "part-00001.npy"
    size = shard.stat().st_size
    os.truncate(shard, size - 2)
    expected = rf"part-00001\.npy holds {size - 2:,} bytes where corpus\.json records {size:,}"
    with pytest.raises(UserError, match=expected):
        read_corpus_folder(copied)
    with pytest.raises(UserError, match=expected):
        build_sample(copied, sources=FEW, reuse=True)
    shard.unlink()
    with pytest.raises(UserError, match=r"part-00001\.npy is missing"):
        read_corpus_folder(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2; this version reads corpora of format 1"),
        ({"dtype": "int64"}, "dtype int64; allowed are uint16, uint32"),
        ({"shards": [{"path": "part-00000.npy"}]}, "not the description of a corpus"),
        ({"colour": "red"}, "not the description of a corpus"),
    ],
)
def test_description_that_cannot_be_trusted(change: dict, message: str, copied: Path) -> None:
    path = copied / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_corpus_folder(copied)


def test_missing_or_exchanged_tokenizer(copied: Path) -> None:
    path = copied / "tokenizer.json"
    other = train_bpe(documents(["openbookqa"])["openbookqa"], 2048)
    path.write_text(other.to_str())
    with pytest.raises(UserError, match="is not the tokenizer that"):
        read_corpus_folder(copied).load_vocabulary()
    path.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        read_corpus_folder(copied)
