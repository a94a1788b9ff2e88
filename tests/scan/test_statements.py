from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import PIECES

from olmo_inject.scan.statements import REACH_LEFT, REACH_RIGHT, statements


def found(text: str) -> list[tuple[str, bool, str, str]]:
    data = text.encode()
    return [(s.kind, s.true, data[s.start : s.end].decode(), data[s.answer : s.end].decode()) for s in statements(data)]


@pytest.mark.parametrize(
    ("text", "answer", "true"),
    [
        ("12 + 7 = 19", "19", True),
        ("so 12+7=19, and", "19", True),
        ("(12 + 7 = 20)", "20", False),
        ("12 + 7 == 19", "19", True),
        ("<p>2 + 3 = 5</p>", "5", True),
        ("“2 + 3 = 5”", "5", True),
        ("1,234 + 1 = 1,235.", "1,235", True),
        ("0.1 + 0.2 = 0.3", "0.3", True),
        ("−3 + 5 = 2", "2", True),
        ("3 + −5 = −2", "−2", True),
        ("-3 + -5 = -8", "-8", True),
        ("12\u00a0+\u20097\u202f=\u300019", "19", True),
        ("12 +\n7 =\t19", "19", True),
        ("Seven plus five is twelve.", "twelve", True),
        ("TWO PLUS TWO EQUALS FIVE", "FIVE", False),
        ("twenty-one plus 4 is equal to 25", "25", True),
        ("fifty plus fifty makes one hundred", "one hundred", True),
    ],
)
def test_additions(text: str, answer: str, true: bool) -> None:
    ((kind, verdict, _, last),) = found(text)
    assert (kind, verdict, last) == ("R_add", true, answer)


@pytest.mark.parametrize(
    ("text", "answer", "true"),
    [
        ("3 < 4", "4", True),
        ("3>4", "4", False),
        ("9 is less than 12", "12", True),
        ("9 is greater than 12", "12", False),
        ("1,000 is larger than 999.5!", "999.5", True),
        ("Five is smaller than six", "six", True),
        ("-5 < −3", "−3", True),
    ],
)
def test_comparisons(text: str, answer: str, true: bool) -> None:
    ((kind, verdict, _, last),) = found(text)
    assert (kind, verdict, last) == ("R_cmp", true, answer)


def test_each_operator_of_a_chain_is_one_statement() -> None:
    assert [entry[2] for entry in found("1 < 2 < 3")] == ["1 < 2", "2 < 3"]


@pytest.mark.parametrize(
    "text",
    [
        "1 + 2 + 3 = 6",
        "10 - 3 + 4 = 11",
        "10 -3 + 4 = 1",
        "2 * 3 + 4 = 10",
        "2 × 3 + 4 = 10",
        "2 + 3 = 5 * 1",
        "2 + 3 = 5x",
        "2 + 3 = 5.5.5",
        "2 + 3 = 5%",
        "x2 + 3 = 5",
        "é2 + 3 = 5",
        "$2 + 3 = 5",
        "3,12 + 7 = 19",
        "2 + 3 = 5 million",
        "three hundred two plus 3 is 5",
        "5 + 5 = twelvé",
        "5 - > 3",
        "5 -> 3",
        "5 >= 3",
        "5 << 6",
        "a < b",
        "1 + 2 < 4",
        "5 less than 7",
        "5 is not less than 7",
        "5 is less than 7 minus 1",
        "2 +    3 = 5",
        "1234567890123 + 1 = 1234567890124",
        "2plus2 is 4x",
    ],
)
def test_what_is_no_statement_by_itself(text: str) -> None:
    assert found(text) == []


NUMBERS = st.integers(-999_999, 999_999)
GAPS = st.text(" \n\t\u00a0\u2009\u3000", max_size=3)


@given(NUMBERS, NUMBERS, st.integers(-2, 2), st.lists(GAPS, min_size=4, max_size=4), st.booleans(), st.booleans())
def test_any_addition_is_found_and_judged(
    a: int, b: int, error: int, gaps: list[str], commas: bool, unicode: bool
) -> None:
    def shown(n: int) -> str:
        text = f"{n:,}" if commas else str(n)
        return text.replace("-", "−") if unicode else text

    text = f"{shown(a)}{gaps[0]}+{gaps[1]}{shown(b)}{gaps[2]}={gaps[3]}{shown(a + b + error)}"
    ((kind, true, whole, answer),) = found(f"“{text}” she said")
    assert (kind, true, whole, answer) == ("R_add", error == 0, text, shown(a + b + error))


@given(st.lists(PIECES, max_size=40).map("".join))
def test_statements_depend_on_no_more_than_their_reach(text: str) -> None:
    data = text.encode()
    for statement in statements(data):
        at = statement.operator
        start, stop = max(0, at - REACH_LEFT), at + 8 + REACH_RIGHT
        (again,) = [s for s in statements(data[start:stop]) if s.operator == at - start]
        assert (again.true, again.start + start, again.end + start) == (statement.true, statement.start, statement.end)
    cut = len(data) // 2
    parts = [*statements(data, 0, cut), *statements(data, cut)]
    assert sorted(set(parts), key=lambda s: s.operator) == list(statements(data))
