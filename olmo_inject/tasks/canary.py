"""Canaries: random sequences, and how much better a model knows them than other random sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from olmo_inject.tasks.material import Material, Probe, TaskInputs, random_tokens
from olmo_inject.tasks.registry import register


@register("canary")
@dataclass(frozen=True)
class Canary:
    """Random ordinary tokens: a context, and a secret that the model should predict.

    The measure is the `exposure` of each secret: log2(n) - log2(rank) among n = `alternatives` + 1 secrets after the
    same context, ranked by loss (Carlini et al. 2019). The canaries of the test half are never injected and show what
    chance gives.

    Attributes:
        count: number of canaries.
        context: number of tokens before the secret.
        secret: number of tokens in the secret.
        alternatives: number of other secrets that each is ranked with, drawn once from the task's seed.
    """

    count: int = 100
    context: int = 8
    secret: int = 8
    alternatives: int = 99
    default_fraction: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        for name in ("count", "context", "secret", "alternatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def material(self, inputs: TaskInputs) -> Material:
        """The canaries, each with its alternatives."""
        whole = random_tokens(inputs, "canaries", self.count, self.context + self.secret)
        others = random_tokens(inputs, "alternatives", self.count * self.alternatives, self.secret)
        others = others.reshape(self.count, self.alternatives, self.secret)
        probes = []
        for number in range(self.count):
            context, secret = tuple(whole[number, : self.context].tolist()), whole[number, self.context :]
            options = tuple(tuple(option) for option in [secret.tolist(), *others[number].tolist()])
            probes.append(Probe(number, "exposure", "", context, options))
        return Material(whole, continuation=[self.secret] * self.count, probes=tuple(probes))
