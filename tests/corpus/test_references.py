"""References: which files are refused, and which items are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import vocabulary

from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.corpus.references import Reference, ReferenceItem, chosen, load_references
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary


def test_references_that_cannot_be_used(tmp_path: Path) -> None:
    dolma = Vocabulary.load(DOLMA)
    path = tmp_path / "r.json"
    Reference("R", dolma.fingerprint, (ReferenceItem((1, 2), (3, 4)),)).save(path)
    with pytest.raises(UserError, match="another tokenizer"):
        load_references({"R": str(path)}, vocabulary(), 8)
    with pytest.raises(UserError, match="an answer has 2 tokens; a sequence of 2"):
        load_references({"R": str(path)}, dolma, 2)
    text = path.read_text()
    for old, new, message in (
        ('"format": 1', '"format": 2', "of format 1"),
        ('"R"', '"S"', "was changed"),
        ('"items"', '"things"', "is not a reference"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=message):
            Reference.load(path)
    with pytest.raises(UserError, match="does not exist"):
        Reference.load(tmp_path / "nothing.json")
    Reference("R", dolma.fingerprint, ()).save(path)
    with pytest.raises(UserError, match="needs items"):
        Reference.load(path)


@given(st.permutations(list(range(12))), st.integers(1, 12), st.integers(0, 12))
def test_what_is_kept_does_not_depend_on_the_order(order: list[int], most: int, cut: int) -> None:
    items = [ReferenceItem((i % 9,), (1,), shard="s", offset=i) for i in range(12)]
    shuffled = [items[i] for i in order]
    expected = chosen(items, most)
    assert len(expected) == min(most, 9)
    assert chosen(shuffled, most) == expected
    assert chosen(chosen(shuffled[:cut], most) + chosen(shuffled[cut:], most), most) == expected
