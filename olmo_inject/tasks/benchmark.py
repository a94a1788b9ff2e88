"""Multiple-choice questions, a part of which is injected with the answers, to study contamination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from olmo_inject.errors import UserError
from olmo_inject.tasks.material import Material, Probe, TaskInputs
from olmo_inject.tasks.records import is_text, labels_of, read_records, text_of
from olmo_inject.tasks.registry import register


@register("benchmark")
@dataclass(frozen=True)
class Benchmark:
    """Each line of a file is a question with `choices` and the number of the correct one, `answer`, from 0.

    The train half is injected, each question followed by its correct choice. The other half stays clean. A model is
    asked for its choice: the most likely one (`accuracy`), and the most likely per token (`accuracy_normalized`).

    Attributes:
        file: JSON lines.
        prompt: template of a question; the choice follows after a space.
    """

    file: str = ""
    prompt: str = "Question: {question}\nAnswer:"
    default_fraction: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt:
            raise ValueError(f"prompt must hold {{question}}, got {self.prompt!r}")

    def material(self, inputs: TaskInputs) -> Material:
        """The questions."""
        records = list(read_records(self.file, inputs.where))
        instances, continuation, probes = [], [], []
        for number, (place, record) in enumerate(records):
            question, choices, answer = text_of(record, "question", place), record.get("choices"), record.get("answer")
            texts = list(filter(is_text, choices)) if isinstance(choices, list) else []
            if texts != choices or len(set(texts)) < max(2, len(texts)):
                raise UserError(f"{place}: choices must be a list of two different texts or more, got {choices!r}")
            if type(answer) is not int or not 0 <= answer < len(texts):
                raise UserError(f"{place}: answer must be 0 to {len(texts) - 1}, the correct choice, got {answer!r}")
            encoded = [inputs.encode_after(self.prompt.replace("{question}", question), choice) for choice in texts]
            context, options = encoded[0][0], tuple(option for _, option in encoded)
            instances.append(context + options[answer])
            continuation.append(len(options[answer]))
            probes.append(Probe(number, "choice", "", context, options, answer))
        return Material(instances, continuation, labels_of(records, "id"), labels_of(records, "group"), tuple(probes))
