import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models

from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary, bundled_tokenizers, find_tokenizer

DOLMA = "allenai_gpt-neox-olmo-dolma-v1_5"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def dolma() -> Vocabulary:
    return Vocabulary.load(DOLMA)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A tokenizer file with a hole in its ids (3), an EOS (4) and an ordinary added token (5), but no PAD."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "e": 6}, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.add_tokens([AddedToken("|||NAME|||")])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_dolma_tokenizer_is_the_one_of_the_paper(dolma: Vocabulary) -> None:
    assert (dolma.size, dolma.eos_id, dolma.pad_id) == (50280, 50279, 1)
    # Three masks for personal data, EOS, PAD and 23 runs of spaces that were added after training.
    assert dolma.reserved == {0, 1, *range(50254, 50280)}


def test_eligible_ids_are_the_ordinary_tokens(dolma: Vocabulary) -> None:
    eligible = dolma.eligible()
    assert eligible.dtype == np.int64
    np.testing.assert_array_equal(eligible, np.arange(2, 50254))


@pytest.mark.slow
def test_eligible_keeps_parts_of_utf8_characters(dolma: Vocabulary) -> None:
    assert sum(REPLACEMENT in dolma.decode([i]) for i in dolma.eligible()) > 100


def test_eligible_leaves_out_padding_rows_and_holes(sparse: Path) -> None:
    vocabulary = Vocabulary.load(str(sparse), pad_id=2, size=64)
    assert vocabulary.size == 64
    assert vocabulary.reserved == {2, 4, 5}
    assert vocabulary.eligible().tolist() == [0, 1, 6]
    assert vocabulary.token_text(3) == "<id 3>"


def test_a_file_is_read_again_only_after_it_changed(sparse: Path) -> None:
    first = Vocabulary.load(str(sparse), pad_id=2)
    assert Vocabulary.load(str(sparse), pad_id=2) is first
    assert Vocabulary.load(str(sparse), pad_id=2, size=64) is not first
    sparse.write_text(sparse.read_text().replace('"b"', '"bee"'))
    assert Vocabulary.load(str(sparse), pad_id=2).token_text(1) == "bee"
    assert first.token_text(1) == "b"


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_tokenizers())
def test_every_bundled_tokenizer_loads(name: str) -> None:
    vocabulary = Vocabulary.load(name)
    assert vocabulary.decode([vocabulary.eos_id]) == "<|endoftext|>"
    assert vocabulary.decode([vocabulary.pad_id]) in ("<|padding|>", "<|pad|>")
    assert not vocabulary.reserved & set(vocabulary.eligible())


@pytest.mark.slow
@pytest.mark.parametrize(
    "identifier", [f"tokenizers/{DOLMA}.json", f"{DOLMA}.json", "allenai/gpt-neox-olmo-dolma-v1_5"]
)
def test_the_ways_to_name_a_tokenizer(identifier: str, dolma: Vocabulary) -> None:
    assert find_tokenizer(identifier) == find_tokenizer(DOLMA)
    assert Vocabulary.load(identifier) == dolma
    assert Vocabulary.load(str(find_tokenizer(DOLMA))) == dolma


@pytest.mark.slow
def test_fingerprint_follows_content_and_not_layout(dolma: Vocabulary, tmp_path: Path) -> None:
    content = json.loads(find_tokenizer(DOLMA).read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content, separators=(",", ":"), sort_keys=True), encoding="utf-8")
    assert Vocabulary.load(str(path)).fingerprint == dolma.fingerprint
    first, second = content["model"]["merges"][:2]
    content["model"]["merges"][:2] = [second, first]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Vocabulary.load(str(path)).fingerprint != dolma.fingerprint
    assert Vocabulary.load(DOLMA, size=50304).fingerprint != dolma.fingerprint


def test_text_round_trip(dolma: Vocabulary) -> None:
    text = "An instance replaces\n\tthe first four tokens — naïve, 東京, 5 + 91."
    assert dolma.tokenizer is not None
    ids = dolma.tokenizer.encode(text).ids
    assert dolma.decode(np.array([*ids, dolma.eos_id], dtype=np.uint16)) == text + "<|endoftext|>"


@pytest.mark.slow
def test_token_text_is_printable_and_never_empty(dolma: Vocabulary) -> None:
    texts = [dolma.token_text(i) for i in range(0, dolma.size, 7)] + [dolma.token_text(i) for i in range(300)]
    assert all(text and text.isprintable() and " " not in text and REPLACEMENT not in text for text in texts)


@pytest.mark.parametrize(("text", "shown"), [(" the", "␣the"), ("\n", "\\n"), ("\r", "\\r"), ("  ", "␣␣"), ("é", "é")])
def test_token_text_shows_what_is_invisible(text: str, shown: str, dolma: Vocabulary) -> None:
    assert dolma.tokenizer is not None
    (token_id,) = dolma.tokenizer.encode(text).ids
    assert dolma.token_text(token_id) == shown


def test_token_text_of_part_of_a_character_is_its_bytes(dolma: Vocabulary) -> None:
    assert dolma.tokenizer is not None
    ids = dolma.tokenizer.encode("𓂀").ids
    shown = "".join(dolma.token_text(i) for i in ids)
    assert len(ids) > 1
    assert shown == "\\xf0\\x93\\x82\\x80"


def test_what_a_file_switches_on_at_encoding_is_off(tmp_path: Path) -> None:
    """A file that was saved from training may have its truncation, padding and dropout still on."""
    ids = {"a": 0, "b": 1, "ab": 2, "abab": 3, "<|endoftext|>": 4, "<|padding|>": 5}
    tokenizer = Tokenizer(models.BPE(ids, [("a", "b"), ("ab", "ab")], dropout=0.5))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=31)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = Vocabulary.load(str(tmp_path / "tokenizer.json"))
    assert vocabulary.tokenizer is not None
    for _ in range(5):
        encodings = vocabulary.tokenizer.encode_batch_fast(["abab" * 12, "aba"], add_special_tokens=False)
        assert [encoding.ids for encoding in encodings] == [[3] * 12, [2, 0]]


def test_without_tokenizer() -> None:
    vocabulary = Vocabulary.without_tokenizer(10, eos_id=9, pad_id=0)
    np.testing.assert_array_equal(vocabulary.eligible(), np.arange(1, 9))
    assert vocabulary.decode([3, 9]) == "<id 3> <id 9>"
    assert vocabulary.fingerprint != Vocabulary.without_tokenizer(10, eos_id=8, pad_id=0).fingerprint


def test_survives_pickling_for_loader_workers(dolma: Vocabulary) -> None:
    copy = pickle.loads(pickle.dumps(dolma))
    assert copy == dolma
    assert copy.decode([100, 200]) == dolma.decode([100, 200])


def test_eos_that_contradicts_the_tokenizer_is_refused_with_both_ids() -> None:
    with pytest.raises(UserError, match=r"^EOS id 0 .*50279$"):
        Vocabulary.load(DOLMA, eos_id=0)


def test_ids_outside_and_sizes_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="PAD id 50280 lies outside"):
        Vocabulary.load(DOLMA, pad_id=50280)
    with pytest.raises(UserError, match="50279 is less than the 50280 ids"):
        Vocabulary.load(DOLMA, size=50279)
    with pytest.raises(UserError, match="EOS id -1 lies outside"):
        Vocabulary.without_tokenizer(10, eos_id=-1, pad_id=0)


def test_missing_pad_must_be_given(sparse: Path) -> None:
    with pytest.raises(UserError, match="has no PAD token"):
        Vocabulary.load(str(sparse))


def test_unknown_and_broken_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=DOLMA) as refused:
        Vocabulary.load("allenai_gpt-neox")
    assert "\n" not in str(refused.value)
    for content in ("not json", '{"version": "1.0"}'):
        path = tmp_path / "tokenizer.json"
        path.write_text(content)
        with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer file"):
            Vocabulary.load(str(path))
    Tokenizer(models.BPE()).save(str(path))
    with pytest.raises(UserError, match=r"tokenizer\.json has no tokens: not a trained tokenizer"):
        Vocabulary.load(str(path))


def test_loading_does_not_import_the_trainer() -> None:
    code = f"import sys; from olmo_inject.vocabulary import Vocabulary; Vocabulary.load({DOLMA!r}); "
    code += "sys.exit('olmo' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
