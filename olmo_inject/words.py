"""Small words for people."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 file`, `2 files`: a number with its noun, which takes an s."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
