"""What a kind of task returns: instances, which of their tokens are to be predicted, groups, and probes.

A kind that samples symbols returns only instances (see `registry`). A kind of texts returns a `Material`, made from a
`TaskInputs`: the corpus's vocabulary and the task's seed. Beyond this module all tasks are alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.tasks.ragged import Ragged
from olmo_inject.vocabulary import Vocabulary

Tokens = tuple[int, ...]
ProbeKind = Literal["continuation", "choice", "exposure"]
_GROUP = re.compile(r"[\w.+=-]{1,64}")


class Probe(NamedTuple):
    """A question to a model about one instance.

    Attributes:
        instance: number of the instance, whose half and group the probe shares.
        kind: `continuation` asks for one continuation, `choice` for the correct one of several, `exposure` for the rank
            of the correct one among alternatives that were never injected.
        measure: prefix of the names of its metrics, one word; may be empty.
        context: token ids that the model reads.
        options: possible continuations; the model reads each after the context.
        right: number of the correct option.
    """

    instance: int
    kind: ProbeKind
    measure: str
    context: Tokens
    options: tuple[Tokens, ...]
    right: int = 0


def continuation_probe(instance: int, tokens: Tokens, context: int) -> Probe:
    """The question how an instance goes on after its first `context` tokens."""
    return Probe(instance, "continuation", "", tokens[:context], (tokens[context:],))


@dataclass(frozen=True)
class Material:
    """What a task is made of.

    Attributes:
        instances: token ids: an array [n, w], or a list of sequences of any lengths.
        continuation: for each instance, the number of last tokens that a model should predict; None: all tokens. The
            logged loss of the task is over these.
        ids: a name for each instance, for results and lists of injections; empty: its number.
        groups: a group for each instance, over which results are averaged; empty: none.
        probes: what a model is asked in an evaluation.
        splittable: whether each instance may go into either half independently.
    """

    instances: Any
    continuation: Sequence[int] | None = None
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    splittable: bool = True


@runtime_checkable
class Rows(Protocol):
    """The rows of a corpus, in the corpus's order."""

    def __len__(self) -> int: ...

    def read(self, sequences: Int64[np.ndarray, " b"]) -> UInt[np.ndarray, "b t"]:
        """The tokens of some rows."""
        ...


@dataclass(frozen=True)
class TaskInputs:
    """What a kind makes its material from.

    Attributes:
        vocabulary: of the corpus.
        key: returns the key of random draws for a purpose, from the task's name and seed.
        where: the task, for the start of error messages.
        rows: opens the rows of the corpus; None where there are none.
    """

    vocabulary: Vocabulary
    key: Callable[[str], int] = field(repr=False)
    where: str = "tasks"
    rows: Callable[[], Rows] | None = field(default=None, repr=False)

    def host(self) -> Rows:
        """The rows of the corpus that is injected into.

        Raises:
            UserError: there is no corpus; a shard is missing.
        """
        if self.rows is None:
            raise UserError(f"{self.where}: needs the rows of the run's corpus, which this command does not open")
        return self.rows()

    def encode(self, text: str) -> Tokens:
        """The tokens of a whole text, without special tokens.

        Raises:
            UserError: the corpus has no tokenizer, or the text has no token.
        """
        if self.vocabulary.tokenizer is None:
            raise UserError(f"{self.where}: texts need corpus.tokenizer; give token ids, or a tokenizer")
        tokens = tuple(self.vocabulary.tokenizer.encode(text, add_special_tokens=False).ids)
        if not tokens:
            raise UserError(f"{self.where}: {text[:40]!r} has no tokens")
        return tokens

    def encode_after(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        """The tokens of a context and of its continuation. The space between them belongs to the continuation."""
        stripped = context.rstrip(" ")
        space = " " if stripped and not continuation.startswith((" ", "\n")) else ""
        return (self.encode(stripped) if stripped else ()), self.encode(space + continuation)


@dataclass(frozen=True, eq=False)
class CheckedMaterial:
    """A `Material` as arrays, after its checks.

    Attributes:
        instances: the tokens of every instance.
        continuation: for each instance, the number of last tokens to predict.
        ids: as in `Material`.
        groups: as in `Material`.
        probes: as in `Material`.
    """

    instances: Ragged
    continuation: Int64[np.ndarray, " n"]
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()


def checked(material: object, vocabulary: Vocabulary, where: str) -> CheckedMaterial:
    """Check a kind's material like any input, since the kind may be the user's own.

    Args:
        material: what the kind returned.
        vocabulary: of the corpus.
        where: the task, for messages.

    Raises:
        UserError: the material is invalid; the message names the fault and the instance.
    """
    if not isinstance(material, Material):
        raise UserError(f"{where}: material() must return a Material, got {type(material).__name__}")
    instances = ragged_of(material.instances, f"{where}: material()")
    if not len(instances):
        raise UserError(f"{where}: there is no instance")
    n, lengths = len(instances), instances.lengths
    wanted = lengths if material.continuation is None else np.asarray(material.continuation, np.int64)
    if wanted.shape != (n,) or (wanted < 1).any() or (wanted > lengths).any():
        raise UserError(f"{where}: continuation must say for each of {n} instances how many of its last tokens it is")
    for name in ("ids", "groups"):
        values = getattr(material, name)
        if values and (len(values) != n or not all(isinstance(value, str) and value for value in values)):
            raise UserError(f"{where}: {name}: give a text to each of the {n} instances, or to none")
    if twice := _twice(material.ids):
        raise UserError(f"{where}: two instances have the id {twice!r}")
    for group in dict.fromkeys(material.groups):
        if not _GROUP.fullmatch(group):
            raise UserError(f"{where}: group {group[:80]!r} must be a word of letters, digits and any of _.+=-")
    size = vocabulary.size
    if (largest := int(instances.values.max())) >= size:
        raise UserError(f"{where}: token {largest} is not in the vocabulary of {size}")
    for probe in material.probes:
        _check_probe(probe, n, size, where)
    return CheckedMaterial(instances, wanted, tuple(material.ids), tuple(material.groups), tuple(material.probes))


def ragged_of(sequences: Any, where: str) -> Ragged:
    """Convert sequences of token ids, of any type that a kind's code may return.

    Args:
        sequences: an integer array [n, w], or a sequence of sequences of whole numbers.
        where: the task and the function, to begin the message.

    Raises:
        UserError: something else; an empty instance; an id below 0.
    """
    if isinstance(sequences, np.ndarray) and sequences.ndim != 2:
        raise UserError(f"{where} must return sequences of token ids, got an array of shape {sequences.shape}")
    try:
        rows = [sequences] if isinstance(sequences, np.ndarray) else [np.asarray(each) for each in sequences]
    except (TypeError, ValueError):
        raise UserError(f"{where} must return sequences of token ids, got {type(sequences).__name__}") from None
    for number, row in enumerate(rows):
        if not isinstance(sequences, np.ndarray) and (row.ndim != 1 or not len(row)):
            raise UserError(f"{where} must return one or more token ids for instance {number}, got shape {row.shape}")
        if row.dtype.kind not in "iuf" or (row.dtype.kind == "f" and (row % 1 != 0).any()):
            raise UserError(f"{where} must return an array of tokens, got {row.dtype} for instance {number}")
        if row.size and not (row.min() >= 0 and row.max() < 2**32):
            raise UserError(f"{where} must return token ids from 0, of 32 bits; instance {number} holds others")
    if isinstance(sequences, np.ndarray) and not sequences.shape[1]:
        raise UserError(f"{where} must return one or more token ids for each instance")
    return Ragged.of(sequences if isinstance(sequences, np.ndarray) else rows)


def _twice(values: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)


def _check_probe(probe: Probe, n: int, size: int, where: str) -> None:
    whole = [token for part in (probe.context, *probe.options) for token in part]
    good = 0 <= probe.instance < n and 0 <= probe.right < len(probe.options) and all(probe.options)
    if not good or (probe.kind == "continuation") != (len(probe.options) == 1) or not all(0 <= t < size for t in whole):
        raise UserError(f"{where}: not a probe of one of {n} instances: {str(probe)[:160]}")
    if probe.measure and not probe.measure.isidentifier():
        raise UserError(f"{where}: what a probe measures must be a word, got {probe.measure[:80]!r}")
    if not probe.context:
        raise UserError(f"{where}: a probe of instance {probe.instance} needs a context of one token or more")


def random_tokens(inputs: TaskInputs, purpose: str, n: int, length: int) -> np.ndarray:
    """Draw sequences of ordinary tokens, each token independently and uniformly.

    Args:
        inputs: supplies the vocabulary and the key.
        purpose: of the draws.
        n: number of sequences.
        length: tokens of a sequence.
    """
    eligible = inputs.vocabulary.eligible()
    drawn = randomness.integers(inputs.key(purpose), n * length, len(eligible))
    return eligible[drawn].reshape(n, length)


def as_record(probe: Probe) -> dict[str, Any]:
    """As JSON."""
    return probe._asdict()


def of_record(record: dict[str, Any]) -> Probe:
    """What `as_record` gave."""
    options = tuple(tuple(option) for option in record["options"])
    return Probe(**(record | {"context": tuple(record["context"]), "options": options}))
