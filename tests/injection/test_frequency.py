"""Exact frequencies and their three units."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_inject.errors import UserError
from olmo_inject.injection import Frequency
from olmo_inject.injection.frequency import UNITS
from olmo_inject.utils.fraction_text import parse_fraction


@pytest.mark.parametrize(
    ("written", "fraction"),
    [
        ("1/10", Fraction(1, 10)),
        ("3 / 7", Fraction(3, 7)),
        (0.1, Fraction(1, 10)),
        (2.4e-8, Fraction(24, 10**9)),
        ("2.4e-8", Fraction(24, 10**9)),
        (1024, Fraction(1024)),
        (" 5 ", Fraction(5)),
        ("+1.5", Fraction(3, 2)),
        (0, Fraction(0)),
    ],
)
def test_fractions_are_what_was_written(written: str | int | float, fraction: Fraction) -> None:
    assert parse_fraction(written, "here") == fraction


@pytest.mark.parametrize(
    "written", ["", "a tenth", "1/0", "1/", "1//2", "1/2/3", True, None, [1], "1e", "inf", float("nan"), "1_000"]
)
def test_what_is_no_fraction(written: object) -> None:
    with pytest.raises(UserError, match="^here: .* is not a number or a fraction such as 1/10$"):
        parse_fraction(written, "here")  # type: ignore[arg-type]


@pytest.mark.parametrize("written", [-1, "-1/10", -0.1])
def test_negative(written: str | int | float) -> None:
    with pytest.raises(UserError, match="^here: -.* is negative$"):
        parse_fraction(written, "here")


@pytest.mark.parametrize("written", ["1e999999999", "1e-999999999"])
def test_absurd_exponents_end_at_once(written: str) -> None:
    """As a fraction this number has a billion digits."""
    with pytest.raises(UserError, match="^here: "):
        parse_fraction(written, "here")


def test_units_of_the_paper() -> None:
    """docs/study.md: in batches of 1024 x 4096, 1 per 10 batches is 2.38e-8 per token, 1024 per batch 2.44e-4."""
    rare = Frequency(Fraction(1, 10), 1024, 4096)
    assert float(rare.per_token) == pytest.approx(2.38e-8, rel=2e-3)
    assert rare.per_sequence == Fraction(1, 10 * 1024)
    common = Frequency(Fraction(1024), 1024, 4096)
    assert float(common.per_token) == pytest.approx(2.44e-4, rel=2e-3)
    assert common.per_sequence == 1
    assert float(Frequency(Fraction(8), 1024, 4096).per_sequence) == pytest.approx(7.8e-3, rel=2e-3)


@given(st.fractions(min_value=0, max_value=5000), st.integers(1, 4096), st.integers(5, 8192), st.sampled_from(UNITS))
def test_units_convert_back_exactly(rate: Fraction, batch_size: int, length: int, unit: str) -> None:
    frequency = Frequency(rate, batch_size, length)
    value = frequency.per_batch if unit == "instances_per_batch" else getattr(frequency, unit)
    assert Frequency.in_unit(unit, value, batch_size, length) == frequency
