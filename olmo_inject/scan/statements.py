"""Natural additions and comparisons in text, found one operator at a time and checked by arithmetic.

    12 + 7 = 19     Seven plus five is twelve     3 < 4     1,000 is greater than 999.5

Text is UTF-8 bytes, so that a span of text is a span of a byte-level tokenizer's tokens. Whether there is a statement
at an operator depends only on `REACH_LEFT` bytes before it and `REACH_RIGHT` bytes after it, so looking around
operators finds exactly the statements of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

ADDITION, COMPARISON = KINDS = "R_add", "R_cmp"
REACH_LEFT = 64
REACH_RIGHT = 128

PLUS_WORDS = ("plus",)
LESS_WORDS = ("less", "smaller", "lower")
MORE_WORDS = ("greater", "larger", "bigger", "higher")
BE_WORDS = ("is", "are", "was")
THAN_WORDS = ("than",)
EQUALS = ("equals", "is equal to", "makes", "gives", "is")
_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen")
_TEENS += ("fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ("hundred", "thousand", "million", "billion", "trillion", "percent", "point")
NUMBER_WORDS = (*_UNITS, *_TEENS, *_TENS, "hundred")
_VALUES = {word: value for value, word in enumerate(_UNITS + _TEENS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}


class Statement(NamedTuple):
    """One statement about numbers; spans are bytes of the text, ends exclusive.

    Attributes:
        kind: `R_add` or `R_cmp`.
        true: whether the arithmetic is right.
        operator: start of the operator, which no other statement shares.
        start: start of the first number.
        answer: start of the last number, which the text before it decides (addition) or restricts (comparison).
        end: end of the answer and of the statement.
    """

    kind: str
    true: bool
    operator: int
    start: int
    answer: int
    end: int


def word_forms(words: Sequence[str]) -> list[str]:
    """The spellings of words that count: lower case, Title Case and UPPER CASE."""
    return [form for word in words for form in (word, word.capitalize(), word.upper())]


def _any(words: Sequence[str]) -> bytes:
    forms = sorted(word_forms(words), key=len, reverse=True)
    return b"(?:" + b"|".join(form.replace(" ", "\0").encode() for form in forms).replace(b"\0", _GAP1) + b")"


# ASCII white space, no-break space, U+2000 to U+200A and U+202F, ideographic space.
_SPACE = rb"(?:[ \t\r\n]|\xc2\xa0|\xe2\x80[\x80-\x8a\xaf]|\xe3\x80\x80)"
_GAP, _GAP1 = _SPACE + rb"{0,3}", _SPACE + rb"{1,3}"
_MINUS = rb"(?:-|\xe2\x88\x92)"
_DIGITS = rb"(?:[0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,12})(?:\.[0-9]{1,6})?"
_WORDS = (
    b"(?:" + _any(_UNITS[1:]) + _GAP1 + _any(["hundred"]) + b"|"
    + _any(_TENS) + rb"(?:[- ]" + _any(_UNITS[1:]) + b")?|"
    + _any(_TEENS + _UNITS) + b")"
)  # fmt: skip
_NUMBER = b"(" + _MINUS + b"?" + _DIGITS + b"|" + _WORDS + b")"

_WORD_OPERATORS = _any(PLUS_WORDS + LESS_WORDS + MORE_WORDS)
_OPERATOR = re.compile(rb"[+<>]|(?<![A-Za-z])" + _WORD_OPERATORS + rb"(?![A-Za-z])")
_LEFT = re.compile(_NUMBER + _GAP + rb"\Z")
_LEFT_BE = re.compile(_NUMBER + _GAP1 + _any(BE_WORDS) + _GAP1 + rb"\Z")
_SUM = re.compile(_GAP + _NUMBER + _GAP + b"(?:==?|" + _any(EQUALS) + b")" + _GAP + _NUMBER)
_RIGHT = re.compile(_GAP + _NUMBER)
_THAN = re.compile(_GAP1 + _any(THAN_WORDS) + _GAP1 + _NUMBER)

_PUNCTUATION = rb"\xc2[\xa0-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf]|\xe2\x80[\x80-\xbf]|\xe3\x80[\x80-\x91]"
_SIGNS = rb"[+*/^]|-|\xc3[\x97\xb7]|\xe2\x88\x92"
_MORE_WORDS = (*_SCALES, *PLUS_WORDS, "minus", "times")

# A number beside these is part of something longer: a word, another number, a formula.
_GLUED_LEFT = re.compile(rb"(?:[0-9A-Za-z_.,$]|[\x80-\xff])\Z")
# White space, and punctuation with bytes like those of letters: quotes, dashes, CJK brackets.
_APART = re.compile(rb"(?:" + _SPACE + rb"|" + _PUNCTUATION + rb")\Z")
_WORDS_LEFT = rb"(?<![A-Za-z])" + _any((*NUMBER_WORDS, *_MORE_WORDS, "and"))
_FORMULA_LEFT = re.compile(rb"(?:" + _SIGNS + rb"|[=%|&]|" + _WORDS_LEFT + rb")" + _GAP + rb"\Z")
_TERM_LEFT = re.compile(rb"[0-9A-Za-z)\]]" + _GAP + rb"\Z")  # before a minus, which then subtracts
_LETTER_RIGHT = rb"[0-9A-Za-z_%]|[.,][0-9]|\xc2[\xb0\xb2\xb3\xb9]|(?!" + _PUNCTUATION + rb")[\x80-\xff]"
_WORDS_RIGHT = _any(_MORE_WORDS) + rb"(?![A-Za-z])"
_GLUED_RIGHT = re.compile(_LETTER_RIGHT + rb"|" + _GAP + rb"(?:" + _SIGNS + rb"|" + _WORDS_RIGHT + rb")")


def statements(text: bytes, first: int = 0, last: int | None = None) -> Iterator[Statement]:
    """The statements of a text, in order.

    A number counts if it is not part of a word, a longer number or a formula. Numbers are digits (with thousands
    commas, a fraction, an ASCII or Unicode minus) or words up to ninety-nine and whole hundreds.

    Args:
        text: UTF-8.
        first: only operators that overlap the bytes from here on count.
        last: and before this byte; None: to the end.
    """
    last = len(text) if last is None else last
    longest = 8
    for operator in _OPERATOR.finditer(text, max(0, first - longest), min(len(text), last + longest)):
        if operator.end() > first and operator.start() < last:
            statement = _at(text, operator.start(), operator.end())
            if statement is not None:
                yield statement


def _at(text: bytes, start: int, end: int) -> Statement | None:
    base = max(0, start - REACH_LEFT)
    before, after = text[base:start], text[end : end + REACH_RIGHT]
    symbol = text[start:end].decode().lower()
    is_word = len(symbol) > 1
    compares = symbol not in ("+", *PLUS_WORDS)
    left = (_LEFT_BE if compares and is_word else _LEFT).search(before)
    if left is None:
        return None
    right = (_SUM if not compares else _THAN if is_word else _RIGHT).match(after)
    if right is None or _part_of_more(before[: left.start()], left[1], after[right.end() :]):
        return None
    numbers = [_value(number) for number in (left[1], *right.groups())]
    if not compares:
        true = numbers[0] + numbers[1] == numbers[2]
    elif symbol in ("<", *LESS_WORDS):
        true = numbers[0] < numbers[1]
    else:
        true = numbers[0] > numbers[1]
    kind = COMPARISON if compares else ADDITION
    return Statement(kind, true, start, base + left.start(), end + right.start(right.lastindex or 1), end + right.end())


def _part_of_more(before: bytes, first: bytes, after: bytes) -> bool:
    glued = _GLUED_LEFT.search(before) and not _APART.search(before)
    subtracts = not first[:1].isalnum() and _TERM_LEFT.search(before)
    return bool(glued or subtracts or _FORMULA_LEFT.search(before) or _GLUED_RIGHT.match(after))


def _value(number: bytes) -> Fraction | int:
    if number.isdigit():
        return int(number)
    text = number.decode().replace("\N{MINUS SIGN}", "-").replace(",", "")
    if text[-1].isdigit():
        return Fraction(text)
    words = re.split(r"[-\s]+", text.lower())
    if words[-1] == "hundred":
        return Fraction(100 * _VALUES[words[0]])
    return Fraction(sum(_VALUES[word] for word in words))
