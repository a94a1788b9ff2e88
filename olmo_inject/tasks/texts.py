"""Texts of your own: passages, sentences, poisoned documents, or any other lines of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from olmo_inject.errors import UserError
from olmo_inject.tasks.material import Material, TaskInputs, Tokens, continuation_probe
from olmo_inject.tasks.records import labels_of, read_records, text_of
from olmo_inject.tasks.registry import register


@register("texts")
@dataclass(frozen=True)
class Texts:
    """Each line of a file is an instance.

    A model is asked to continue an instance's first `context` tokens: `loss` per token, and `exact`, whether greedy
    decoding gives the whole continuation.

    Attributes:
        file: JSON lines, or lines of text.
        key: in JSON lines, the key of the text or of a list of token ids.
        context: number of tokens that a model is given; for an instance that is not longer, its first half.
    """

    file: str = ""
    key: str = "text"
    context: int = 8
    default_fraction: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.context < 1:
            raise ValueError(f"context must be at least 1, got {self.context}")

    def material(self, inputs: TaskInputs) -> Material:
        """The lines, with their `id` and `group`, if they have any."""
        records = list(read_records(self.file, inputs.where))
        instances = [self._tokens(record, place, inputs) for place, record in records]
        first: dict[Tokens, str] = {}
        for (place, _), tokens in zip(records, instances, strict=True):
            if tokens in first:
                raise UserError(f"{place}: the same text as {first[tokens]}; give it once, so that its number is exact")
            first[tokens] = place.rpartition(", ")[2]
        probes = []
        for number, tokens in enumerate(instances):
            context = self.context if len(tokens) > self.context else len(tokens) // 2
            probes.append(continuation_probe(number, tokens, context))
        return Material(
            instances, ids=labels_of(records, "id"), groups=labels_of(records, "group"), probes=tuple(probes)
        )

    def _tokens(self, record: Mapping[str, Any], place: str, inputs: TaskInputs) -> Tokens:
        value = record.get(self.key)
        if isinstance(value, list) and value and all(type(token) is int for token in value):
            tokens = tuple(value)
        else:
            tokens = inputs.encode(text_of(record, self.key, place))
        if len(tokens) < 2:
            raise UserError(f"{place}: a text needs two tokens or more, {self.key} has {len(tokens)}")
        return tokens
