"""A task: its instances, its train and test half, and its probes, built from a kind, a seed and a vocabulary.

An instance is a sequence of tokens of any length. Those of the study's two tasks have three tokens: TOK1, TOK2, LABEL.
Only such tasks have labels and mirrored pairs; `triples` raises an error for others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.tasks.material import (
    CheckedMaterial,
    Probe,
    Rows,
    TaskInputs,
    as_record,
    checked,
    of_record,
    ragged_of,
)
from olmo_inject.tasks.ragged import Ragged
from olmo_inject.tasks.registry import MaterialKind, TaskKind, code_of, default_fraction, line_of, task_kind
from olmo_inject.utils.files import read_json, write_json
from olmo_inject.vocabulary import Vocabulary

INSTANCE_TOKENS = 3  # tokens of a triple: TOK1, TOK2, LABEL
LABEL_POSITION = 2  # index of LABEL in a triple; the logits at LABEL_POSITION - 1 predict it
SPLICED_TOKENS = 4  # a triple and one end-of-document token (docs/study.md, Injection)


@dataclass
class TaskConfig:
    """One entry of an experiment's `tasks`."""

    name: str = ""
    """Name of the task in plans, metrics and figures; unique in a run."""
    kind: str = ""
    """A registered kind (`comparison`, `texts`, ...), or `path/to/file.py:Class` for one of your own."""
    seed: int = 0
    """Decides the value tokens, their bijection, the split and the draws of instances."""
    train_fraction: float | None = None
    """Share of the instances in the train half, the only part that is injected; None: the kind's default."""
    disjoint_tokens: bool = True
    """Whether to avoid the tokens of tasks declared before this one."""
    options: dict[str, Any] = field(default_factory=dict)
    """The kind's own fields, for example `n_values: 100`."""


@dataclass(frozen=True)
class Task:
    """A task ready to be injected and evaluated.

    Attributes:
        config: what it was built from.
        tokens: the sampled vocabulary tokens, in the kind's order (value tokens first).
        instances: the tokens of every instance.
        train_ids: sorted indices into `instances` of the train half; only these are ever injected.
        test_ids: indices of the held-out instances; empty if nothing has to be held out.
        continuation: for each instance, the number of last tokens to predict (1: its LABEL).
        ids: a name for each instance; empty: its number.
        groups: a group for each instance; empty: none.
        probes: what an evaluation asks; a task without probes is evaluated on its labels.
    """

    config: TaskConfig
    tokens: UInt32[np.ndarray, " t"]
    instances: Ragged
    train_ids: Int64[np.ndarray, " train"]
    test_ids: Int64[np.ndarray, " test"]
    continuation: Int64[np.ndarray, " n"]
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()

    @classmethod
    def build(
        cls,
        config: TaskConfig,
        vocabulary: Vocabulary,
        taken: Collection[int] = (),
        rows: Callable[[], Rows] | None = None,
    ) -> Task:
        """Build the task that `config` describes. The same config and vocabulary give the same task.

        Args:
            config: name, kind, seed, split and the kind's options.
            vocabulary: supplies value and label tokens; reserved ids are never sampled.
            taken: token ids that other tasks already use.
            rows: opens the corpus, for kinds that copy of it.

        Raises:
            UserError: unknown kind or option, or too few tokens left in the vocabulary.
        """
        where = f"tasks: {config.name}"
        check_name(config.name, "tasks")
        if config.train_fraction is None:
            config = replace(config, train_fraction=default_fraction(config.kind))
        kind = task_kind(config.kind, config.options, where)
        tokens, content = _content(kind, config, vocabulary, taken, rows)
        n, fraction = len(content.instances), config.train_fraction
        assert fraction is not None
        may_hold_none = isinstance(kind, MaterialKind)
        if not (0 < fraction < 1 or (may_hold_none and fraction == 1)):
            limit = "above 0 and at most 1" if may_hold_none else "between 0 and 1"
            raise UserError(f"{where}: train_fraction {fraction} must lie {limit}")
        shuffled = randomness.permutation(_key(config, "split"), n)
        n_train = int(n * Fraction(str(fraction)))  # 10,000 * 0.57 is 5,699.999...
        if not n_train or (n_train == n and fraction < 1):
            all_of_them = "; train_fraction: 1 injects all" if n and may_hold_none else ""
            raise UserError(f"{where}: {n} instances leave the train or the test half empty{all_of_them}")
        return cls(
            config=config,
            tokens=tokens,
            train_ids=np.sort(shuffled[:n_train]),
            test_ids=np.sort(shuffled[n_train:]),
            **vars(content),
        )

    @property
    def name(self) -> str:
        """Name of the task in plans, metrics and figures."""
        return self.config.name

    @cached_property
    def is_triples(self) -> bool:
        """Whether every instance is a pair with its LABEL over the task's own symbols, as in the study."""
        return self.instances.width == INSTANCE_TOKENS and len(self.tokens) > 0

    @cached_property
    def triples(self) -> UInt32[np.ndarray, "n 3"]:
        """TOK1, TOK2, LABEL of every instance.

        Raises:
            UserError: the task's instances are something else.
        """
        if not self.is_triples:
            raise UserError(f"task {self.name}: this needs instances TOK1, TOK2, LABEL; those of the task are others")
        return self.instances.table()

    def instance_id(self, number: int) -> str:
        """The name of an instance."""
        return self.ids[number] if self.ids else str(number)

    @property
    def labels(self) -> UInt32[np.ndarray, " n"]:
        """The LABEL token of every instance."""
        return self.triples[:, LABEL_POSITION]

    @cached_property
    def label_tokens(self) -> UInt32[np.ndarray, " l"]:
        """The tokens that occur as a LABEL, ascending."""
        return np.unique(self.labels)

    @cached_property
    def majority_accuracy(self) -> float:
        """Accuracy of always giving the label that is most frequent among the test pairs that decide "learned"."""
        judged = self.test_ids[self.unmirrored] if self.unmirrored.any() else self.test_ids
        return float(np.unique(self.labels[judged], return_counts=True)[1].max() / len(judged))

    @cached_property
    def unmirrored(self) -> Bool[np.ndarray, " test"]:
        """Which test instances have no mirror (TOK2, TOK1) in the train half."""
        pair = self.triples[:, :2].astype(np.uint64)
        forward = pair[:, 0] << np.uint64(32) | pair[:, 1]
        backward = pair[:, 1] << np.uint64(32) | pair[:, 0]
        return ~np.isin(backward[self.test_ids], forward[self.train_ids])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that makes up the task: tokens, instances, halves, and its config."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        instances = self.instances
        sequences = (instances.values, instances.offsets) if instances.width is None else (instances.table(),)
        for array in (self.tokens, *sequences, self.train_ids, self.test_ids):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        for name, value in self._beside().items():  # empty for a task of labels, whose fingerprint covers its arrays
            digest.update(json.dumps([name, value]).encode())
        return digest.hexdigest()

    def draw_key(self, *entry: int) -> int:
        """The key of the draws of instances, which depends on the task's seed alone (docs/design.md).

        Args:
            entry: number of the task's entry in the plan, if it is not the first.
        """
        return randomness.key("task", "draws", self.name, self.config.seed, *entry)

    def save(self, folder: Path) -> None:
        """Write `folder/NAME.json`, readable without the code of the task's kind."""
        record = {"config": asdict(self.config), "fingerprint": self.fingerprint}
        arrays = {name: getattr(self, name).tolist() for name in ("tokens", "instances", "train_ids", "test_ids")}
        write_json(folder / f"{self.name}.json", record | arrays | self._beside())

    def _beside(self) -> dict[str, Any]:
        """What a task has besides tokens, instances and halves, as JSON. Defaults of tasks with labels are left out."""
        beside = {
            "continuation": [] if (self.continuation == 1).all() else self.continuation.tolist(),
            "ids": list(self.ids),
            "groups": list(self.groups),
            "probes": [as_record(probe) for probe in self.probes],
        }
        return {name: value for name, value in beside.items() if value}

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, is not a task, or does not match its own fingerprint.
        """
        record = read_json(path)
        try:
            instances = Ragged.of(record["instances"])
            task = cls(
                TaskConfig(**record["config"]),
                tokens=np.array(record["tokens"], np.uint32),
                instances=instances,
                train_ids=np.array(record["train_ids"], np.int64),
                test_ids=np.array(record["test_ids"], np.int64),
                continuation=np.array(record.get("continuation", [1] * len(instances)), np.int64),
                ids=tuple(record.get("ids", ())),
                groups=tuple(record.get("groups", ())),
                probes=tuple(map(of_record, record.get("probes", ()))),
            )
            recorded = record["fingerprint"]
            task._check_saved()
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is not a saved task: {error!r}") from None
        check_name(task.name, str(path))
        if task.fingerprint != recorded:
            raise UserError(f"{path} was changed: its contents do not match its fingerprint")
        return task

    def _check_saved(self) -> None:
        """Raise ValueError if the arrays that were read do not make up a task."""
        kinds = {"name": str, "kind": str, "seed": int, "options": dict}
        if any(type(getattr(self.config, name)) is not kind for name, kind in kinds.items()):
            raise ValueError("its config holds values of other types")
        n, halves = len(self.instances), (self.train_ids, self.test_ids)
        if not n or any(half.ndim != 1 for half in halves) or not len(self.train_ids):
            raise ValueError("its arrays have other shapes")
        if not np.array_equal(np.sort(np.concatenate(halves)), np.arange(n)) or (np.diff(self.train_ids) < 0).any():
            raise ValueError("its halves do not share its instances")
        if self.continuation.shape != (n,) or not self.instances.lengths.all():
            raise ValueError("its arrays have other shapes")
        if len(self.tokens) and not np.isin(self.instances.values, self.tokens).all():
            raise ValueError("an instance holds a token that is none of its own")


def check_name(name: str, where: str) -> None:
    """Check that a name is one word, since names appear in file names, metrics and figures.

    Raises:
        UserError: it is not.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{where}: name {str(name)[:80]!r} must be a word of letters, digits and underscores")


def build_tasks(
    configs: Sequence[TaskConfig], vocabulary: Vocabulary, rows: Callable[[], Rows] | None = None
) -> list[Task]:
    """Build tasks in order. Each avoids the tokens of earlier tasks, unless it says otherwise.

    Args:
        configs: of the tasks.
        vocabulary: the corpus's.
        rows: as `Task.build`'s.

    Raises:
        UserError: as in `Task.build`, or two tasks have the same name.
    """
    tasks: list[Task] = []
    taken: set[int] = set()
    for config in configs:
        if any(task.name == config.name for task in tasks):
            raise UserError(f"tasks: two tasks are named {config.name}; names must differ")
        task = Task.build(config, vocabulary, taken, rows)
        taken.update(task.tokens.tolist())
        tasks.append(task)
    return tasks


def _key(config: TaskConfig, purpose: str) -> int:
    return randomness.key("task", purpose, config.name, config.seed)


def _content(
    kind: TaskKind | MaterialKind,
    config: TaskConfig,
    vocabulary: Vocabulary,
    taken: Collection[int],
    rows: Callable[[], Rows] | None,
) -> tuple[UInt32[np.ndarray, " t"], CheckedMaterial]:
    """The symbols of a task, if its kind has any, and its checked material.

    Raises:
        UserError: the vocabulary has too few tokens left, or the kind's code failed or returned something invalid.
    """
    where = f"tasks: {config.name}"
    if isinstance(kind, MaterialKind):
        inputs = TaskInputs(vocabulary, lambda purpose: _key(config, purpose), where, rows)
        with code_of(type(kind), where, "material() failed: "):
            material = kind.material(inputs)
        if config.train_fraction != 1 and not getattr(material, "splittable", True):
            raise UserError(f"{where}: train_fraction {config.train_fraction}: paraphrases of one fact need 1")
        return np.empty(0, np.uint32), checked(material, vocabulary, where)
    eligible = vocabulary.eligible()
    order = eligible[randomness.permutation(_key(config, "tokens"), len(eligible))]
    if config.disjoint_tokens:
        order = order[~np.isin(order, np.fromiter(taken, np.int64))]
    if kind.n_tokens > len(order):
        raise UserError(
            f"{where}: needs {kind.n_tokens} tokens, the vocabulary has {len(order)} left that may be sampled"
        )
    tokens = order[: kind.n_tokens].astype(np.uint32)
    with code_of(type(kind), where, "instances() failed: "):
        returned = kind.instances(tokens)
    returning = f"{where}: {line_of(type(kind).instances)}instances()"
    instances = ragged_of(returned, returning)
    if not np.isin(instances.values, tokens).all():
        raise UserError(f"{returning} must use only the tokens it was given")
    contexts = {sequence[:-1].tobytes() for sequence in instances}
    if len(contexts) != len(instances):
        raise UserError(f"{returning} must not repeat the tokens before a label")
    return tokens, CheckedMaterial(instances, np.ones(len(instances), np.int64))
