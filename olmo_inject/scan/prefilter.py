"""Find the places in a token stream that may hold a statement about numbers, before any text is decoded.

No statement is missed. A symbol is one byte, so one token holds it. The pre-tokenizer of a byte-level BPE separates a
word from its neighbours, so its tokens are those of the word alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from olmo_inject.errors import UserError
from olmo_inject.scan.statements import (
    BE_WORDS,
    LESS_WORDS,
    MORE_WORDS,
    NUMBER_WORDS,
    PLUS_WORDS,
    THAN_WORDS,
    word_forms,
)
from olmo_inject.vocabulary import Vocabulary

# Maximum tokens between an operator's token and the number beside it: the word's other pieces of a byte each, two
# gaps of three white-space characters, and a short word.
_STEPS = 32
_SPACE_BYTES = frozenset(b" \t\r\n\xc2\xa0\xe2\xe3" + bytes(range(0x80, 0x8B)) + b"\xaf")
_NUMBER, _SIGNED, _SKIP_LEFT, _SKIP_RIGHT = 1, 2, 4, 8


@dataclass(frozen=True)
class Prefilter:
    """Classes of tokens.

    Attributes:
        anchors: ids; every operator contains one of them.
        classes: bits of each id: it can end a number, begin a number, lie between a number and the operator after
            it, or between an operator and the number after it.
        spellings: for each anchor, the token sequences of the operators of which it is the rarest token.
    """

    anchors: Int64[np.ndarray, " a"]
    classes: UInt8[np.ndarray, " v"]
    spellings: dict[int, list[list[int]]]

    @classmethod
    def of(cls, vocabulary: Vocabulary, token_bytes: Sequence[bytes], size: int) -> Prefilter:
        """The classes of a byte-level BPE.

        Args:
            vocabulary: with a tokenizer.
            token_bytes: as `Vocabulary.token_bytes` gives them.
            size: length of `classes`, at least the vocabulary's size.

        Raises:
            UserError: the tokenizer does not split words as GPT-2's does, so words could be missed.
        """
        _require_known_splitting(vocabulary)
        operators = _pieces(vocabulary, PLUS_WORDS + LESS_WORDS + MORE_WORDS)
        spellings: dict[int, list[list[int]]] = {}
        for pieces in operators:
            spellings.setdefault(max(pieces), []).append(pieces)  # later tokens of a BPE are rarer
        symbols = {i for i, text in enumerate(token_bytes) if set(b"+<>") & set(text)}
        for i in symbols - {vocabulary.eos_id}:  # symbols inside EOS are not text
            spellings[i] = [[i]]
        own = _union(operators)
        # After an apostrophe GPT-2 splits off 's and 't as contractions: 'seven becomes 's and even.
        numbers = _union(_pieces(vocabulary, NUMBER_WORDS, before=("", " ", "'")))
        numbers |= {i for i, text in enumerate(token_bytes) if set(b"0123456789") & set(text)}
        minus = {i for i, text in enumerate(token_bytes) if set(b"-\xe2\x88\x92") & set(text)}
        space = {i for i, text in enumerate(token_bytes) if text and set(text) <= _SPACE_BYTES}
        classes = np.zeros(size, np.uint8)
        for members, bit in (
            (numbers, _NUMBER),
            (numbers | minus, _SIGNED),
            (space | own | _union(_pieces(vocabulary, BE_WORDS)), _SKIP_LEFT),
            (space | own | _union(_pieces(vocabulary, THAN_WORDS)), _SKIP_RIGHT),
        ):
            classes[sorted(members)] |= bit
        return cls(np.array(sorted(spellings), np.int64), classes, spellings)

    def survivors(self, tokens: np.ndarray, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Those of `places`, indices of anchors in `tokens`, that have a number on both sides."""
        inside = self.classes[tokens[places]] & _NUMBER > 0  # digits in the operator's own token: the text decides
        left = inside | self._reaches(tokens, places, -1, _NUMBER, _SKIP_LEFT)
        places, inside = places[left], inside[left]
        places = places[inside | self._reaches(tokens, places, 1, _SIGNED, _SKIP_RIGHT)]
        return places[np.array([self._is_operator(tokens, place) for place in places.tolist()], bool)]

    def _is_operator(self, tokens: np.ndarray, place: int) -> bool:
        """Whether the anchor at `place` is part of a whole operator."""
        anchor = int(tokens[place])
        for pieces in self.spellings[anchor]:
            begin = place - pieces.index(anchor)
            if len(pieces) == 1 or (begin >= 0 and tokens[begin : begin + len(pieces)].tolist() == pieces):
                return True
        return False

    def _reaches(
        self, tokens: np.ndarray, places: Int64[np.ndarray, " n"], step: int, target: int, skip: int
    ) -> Bool[np.ndarray, " n"]:
        """Whether the next token in direction `step` that is not of class `skip` is of class `target`."""
        reached = np.zeros(len(places), bool)
        moving = np.arange(len(places))
        for distance in range(1, _STEPS + 1):
            looked_at = places[moving] + step * distance
            within = (looked_at >= 0) & (looked_at < len(tokens))
            moving, looked_at = moving[within], looked_at[within]
            classes = self.classes[tokens[looked_at]]
            reached[moving[classes & target > 0]] = True
            moving = moving[(classes & target == 0) & (classes & skip > 0)]
            if not len(moving):
                break
        return reached


def _require_known_splitting(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenizer is not None
    splitter = json.loads(vocabulary.tokenizer.to_str())["pre_tokenizer"] or {}
    if splitter.get("type") != "ByteLevel" or not splitter.get("use_regex"):
        raise UserError(
            f"{vocabulary.identifier}: statements about numbers can only be found with a byte-level BPE that splits "
            "words as GPT-2's and OLMo's do"
        )


def _pieces(vocabulary: Vocabulary, words: Sequence[str], before: Sequence[str] = ("", " ")) -> list[list[int]]:
    """The token ids of each form of each word, with each of the prefixes `before`."""
    assert vocabulary.tokenizer is not None
    texts = [prefix + form for form in word_forms(words) for prefix in before]
    return [encoding.ids for encoding in vocabulary.tokenizer.encode_batch(texts, add_special_tokens=False)]


def _union(lists: Iterable[Iterable[int]]) -> set[int]:
    return {i for members in lists for i in members}
