"""Facts: injected passages, and tests of what a model knows from them (Chang et al. 2024, Allen-Zhu and Li 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from olmo_inject.errors import UserError
from olmo_inject.tasks.material import Material, Probe, TaskInputs
from olmo_inject.tasks.records import is_text, labels_of, read_records, text_of
from olmo_inject.tasks.registry import register

MEASURES = ("memorized", "paraphrased", "composed")


@register("facts")
@dataclass(frozen=True)
class Facts:
    """Each line of a file is a fact: a `passage`, and `probes` that test it.

    `probes` has lists of pairs [context, answer] under `memorized` (words of the passage), `paraphrased` (the same in
    other words) and `composed` (what follows from it). `paraphrases`, if there are any, are injected too, as instances
    of their own.

    Attributes:
        file: JSON lines.
    """

    file: str = ""
    default_fraction: ClassVar[float] = 1.0

    def material(self, inputs: TaskInputs) -> Material:
        """The passages with their probes."""
        records = list(read_records(self.file, inputs.where))
        instances, ids, groups, probes = [], [], [], []
        names = labels_of(records, "id") or tuple(map(str, range(len(records))))
        group_of = labels_of(records, "group")
        for number, (place, record) in enumerate(records):
            probes += self._probes(record, len(instances), place, inputs)
            versions = [text_of(record, "passage", place), *_paraphrases(record, place)]
            instances += [inputs.encode(text) for text in versions]
            ids += [names[number], *(f"{names[number]}/{version}" for version in range(1, len(versions)))]
            groups += [group_of[number]] * len(versions) if group_of else []
        return Material(
            instances,
            ids=tuple(ids),
            groups=tuple(groups),
            probes=tuple(probes),
            splittable=len(instances) == len(records),
        )

    def _probes(self, record: Mapping[str, Any], instance: int, place: str, inputs: TaskInputs) -> list[Probe]:
        given = record.get("probes", {})
        unknown = given.keys() - set(MEASURES) if isinstance(given, dict) else set()
        if not isinstance(given, dict) or unknown:
            what = f", not {min(unknown)!r}" if unknown else ""
            raise UserError(f"{place}: probes must be an object of lists under {', '.join(MEASURES)}{what}")
        probes = []
        for measure, pairs in given.items():
            for pair in pairs if isinstance(pairs, list) else [None]:
                if not (isinstance(pair, list) and len(pair) == 2 and all(map(is_text, pair))):
                    raise UserError(
                        f"{place}: probes: {measure} must be a list of pairs [context, answer], got {pair!r}"
                    )
                context, answer = inputs.encode_after(*pair)
                probes.append(Probe(instance, "continuation", measure, context, (answer,)))
        return probes


def _paraphrases(record: Mapping[str, Any], place: str) -> list[str]:
    given = record.get("paraphrases", [])
    if not isinstance(given, list) or not all(map(is_text, given)):
        raise UserError(f"{place}: paraphrases must be a list of texts, got {given!r}")
    return given
