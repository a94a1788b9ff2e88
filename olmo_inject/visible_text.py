"""Make foreign text safe to show on a terminal."""

from __future__ import annotations

import re

# Control characters except tab and newline, marks that change the direction of text, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""`text` with control characters, which a terminal would obey, written as escapes such as \x1b."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
