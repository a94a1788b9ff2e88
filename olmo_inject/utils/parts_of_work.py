"""Work that is a list of independent items: the part of one process, and results that processes leave each other.

The part `3/8` is every eighth item, from item 3 on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, sha256_of_json, write_json

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """The items `index`, `index + count`, `index + 2 * count`, ... of a list."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `index/count`.

        Raises:
            UserError: `text` has another form, or the index is not below the count.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UserError(f"--part: {text!r} is not i/n with i from 0 to n-1, such as 0/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """This part of `items`."""
        return list(items[self.index :: self.count])


@dataclass(frozen=True)
class Item(Generic[T]):
    """One piece of work.

    Attributes:
        value: what to work on.
        name: for messages.
        about: everything that decides the result, in JSON types.
    """

    value: T
    name: str
    about: dict[str, Any]


Compute = Callable[[list[Any]], Iterable[Any]]  # from values of items to their results, in order and in JSON types
Spreading = Callable[[Sequence[Item[Any]], Compute], Iterable[Any]]


def in_one_process(items: Sequence[Item[Any]], compute: Compute) -> Iterable[Any]:
    """The results of all items, computed here."""
    return compute([item.value for item in items])


@dataclass(frozen=True)
class KeptResults:
    """Results of items in a folder, a JSON file each, named by a hash of what decides the result.

    Attributes:
        folder: of the files.
    """

    folder: Path

    def path(self, item: Item[Any]) -> Path:
        """The file of an item's result."""
        key = sha256_of_json(item.about)[:16]
        return self.folder / f"{key}.json"

    def has(self, item: Item[Any]) -> bool:
        """Whether the result of an item is kept."""
        return self.path(item).is_file()

    def read(self, item: Item[Any]) -> Any:
        """The result of an item.

        Raises:
            UserError: the file is damaged, or holds the result of something else.
        """
        record = read_json(self.path(item))
        if not isinstance(record, dict) or record.get("of") != item.about or "result" not in record:
            raise UserError(f"{self.path(item)} is not the result of {item.name}; delete it to compute it again")
        return record["result"]

    def write(self, item: Item[Any], result: Any) -> None:
        """Keep the result of an item."""
        write_json(self.path(item), {"name": item.name, "of": item.about, "result": result})
