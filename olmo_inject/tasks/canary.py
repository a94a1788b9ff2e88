"""Canaries: random sequences, and how much better a model knows them than others of their sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from olmo_inject.tasks.material import Material, Probe, Source, random_tokens
from olmo_inject.tasks.registry import register


@register("canary")
@dataclass(frozen=True)
class Canary:
    """Random ordinary tokens: a context, and a secret that is to be predicted.

    A model is asked for the `exposure` of each: log2(n) - log2(rank) of the secret among n = `alternatives` + 1 secrets
    after the same context, by their loss (Carlini et al. 2019). The canaries of the test half are
    never injected, and say what chance gives.

    Attributes:
        count: how many.
        context: tokens before the secret.
        secret: tokens of it.
        alternatives: how many other secrets each is ranked among, drawn once of the task's seed.
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

    def material(self, source: Source) -> Material:
        """The canaries, each with its alternatives."""
        whole = random_tokens(source, "canaries", self.count, self.context + self.secret)
        others = random_tokens(source, "alternatives", self.count * self.alternatives, self.secret)
        others = others.reshape(self.count, self.alternatives, self.secret)
        probes = []
        for number in range(self.count):
            context, secret = tuple(whole[number, : self.context].tolist()), whole[number, self.context :]
            options = tuple(tuple(option) for option in [secret.tolist(), *others[number].tolist()])
            probes.append(Probe(number, "exposure", "", context, options))
        return Material(whole, continuation=[self.secret] * self.count, probes=tuple(probes))
