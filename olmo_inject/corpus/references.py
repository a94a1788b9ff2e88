"""Reference tasks: natural statements found in the corpus, stored as evaluation sets.

A reference is one JSON file: `format`, `name`, `vocabulary` (fingerprint of the tokenizer), `corpus` (fingerprint of
the corpus it was found in), `frequency` (of true statements in that corpus, in the plan's units), `items` and
`fingerprint` (SHA-256 of name, vocabulary and items). An item has the token ids `context` and `answer`, of which the
answer is scored given the context, and for people `text`, `shard` and `offset` (of the first answer token). Items are
in pseudorandom order, so the first n items are a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_fields, sha256_of_json, write_json
from olmo_inject.vocabulary import Vocabulary

FORMAT = 1


@dataclass(frozen=True)
class ReferenceItem:
    """One natural statement. The model is scored on `answer` given `context`.

    Attributes:
        context: token ids that the model reads.
        answer: token ids that it is scored on.
        text: the statement as text.
        shard: name of the shard that it was found in.
        offset: index in the shard of the first answer token.
    """

    context: tuple[int, ...]
    answer: tuple[int, ...]
    text: str = ""
    shard: str = ""
    offset: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of the tokens. It decides which items are kept, and prevents duplicates."""
        return sha256_of_json([self.context, self.answer])


@dataclass(frozen=True)
class Reference:
    """A reference task.

    Attributes:
        name: in metrics and figures.
        vocabulary: fingerprint of the vocabulary.
        items: one or more.
        corpus: fingerprint of the corpus they were found in.
        frequency: exact fractions as text by unit, and the counts they come from.
    """

    name: str
    vocabulary: str
    items: tuple[ReferenceItem, ...]
    corpus: str = ""
    frequency: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of name, vocabulary and the scored tokens."""
        scored = [[item.context, item.answer] for item in self.items]
        return sha256_of_json([self.name, self.vocabulary, scored])

    def save(self, path: Path) -> None:
        """Write the reference to a file, whole or not at all."""
        write_json(path, {"format": FORMAT} | asdict(self) | {"fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, not a reference, changed since it was written, or without items.
        """
        record = read_fields(path, FORMAT, "references")
        try:
            recorded = record.pop("fingerprint")
            items = tuple(
                ReferenceItem(**item | {"context": tuple(item["context"]), "answer": tuple(item["answer"])})
                for item in record.pop("items")
            )
            reference = cls(items=items, **record)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a reference: {error!r}") from None
        if reference.fingerprint != recorded:
            raise UserError(f"{path} was changed: its contents do not match its fingerprint")
        if not items or not all(item.context and item.answer for item in items):
            raise UserError(f"{path}: a reference needs items with a context and an answer")
        return reference


def load_references(paths: Mapping[str, str], vocabulary: Vocabulary, sequence_length: int) -> list[Reference]:
    """Load the references of an experiment; each gets the name that the experiment gives it.

    Args:
        paths: file by name, as `Experiment.reference_paths`.
        vocabulary: of the experiment's corpus.
        sequence_length: tokens that the model can read; a longer context loses its beginning.

    Raises:
        UserError: as in `Reference.load`; tokens of another tokenizer; an answer that leaves no room for a context.
    """
    references = []
    for name, path in paths.items():
        reference = Reference.load(Path(path))
        if reference.vocabulary != vocabulary.fingerprint:
            raise UserError(f"references: {name}: {path} was written with another tokenizer than the corpus's")
        items = tuple(_shortened(item, sequence_length, name) for item in reference.items)
        references.append(Reference(name, reference.vocabulary, items, reference.corpus, reference.frequency))
    return references


def _shortened(item: ReferenceItem, length: int, name: str) -> ReferenceItem:
    room = length - len(item.answer)
    if room < 1:
        raise UserError(
            f"references: {name}: an answer has {len(item.answer)} tokens; a sequence of {length} has no room for it "
            "and a context"
        )
    return ReferenceItem(item.context[-room:], item.answer, item.text, item.shard, item.offset)


def chosen(items: Sequence[ReferenceItem], most: int) -> list[ReferenceItem]:
    """At most `most` distinct items, chosen pseudorandomly; the order of `items` does not matter."""
    distinct = {item.key: item for item in sorted(items, key=lambda item: (item.shard, item.offset), reverse=True)}
    return [distinct[key] for key in sorted(distinct)[:most]]
