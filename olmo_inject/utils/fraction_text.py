"""Exact fractions as they are written in configurations and on the command line."""

from __future__ import annotations

import re
from fractions import Fraction

from olmo_inject.errors import UserError


def parse_fraction(value: object, where: str) -> Fraction:
    """Parse an exact non-negative fraction from `1/10`, `0.1`, `2.4e-8` or a number; 0.1 means one tenth.

    Raises:
        UserError: the value is not a finite number, or is negative.
    """
    # A YAML 0.1 arrives as the nearest double, whose shortest decimal is what the user wrote.
    text = str(value).strip()
    try:
        # At most three digits of exponent, since 1e-999999999 would be a fraction with a billion digits.
        if isinstance(value, bool) or not re.fullmatch(r"[0-9.+\-]+([eE][+\-]?[0-9]{1,3})?( ?/ ?[0-9]+)?", text):
            raise ValueError
        fraction = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{where}: {value!r} is not a number or a fraction such as 1/10") from None
    if fraction < 0:
        raise UserError(f"{where}: {value} is negative")
    return fraction
