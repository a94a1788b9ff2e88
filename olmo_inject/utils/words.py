"""Numbers with nouns, for messages."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 file`, `2 files`: a number and a noun whose plural ends in s."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
