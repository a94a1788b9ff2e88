"""What is injected: a task's instances, split and labels, built from a kind, a seed and a vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from olmo_inject import randomness
from olmo_inject.errors import UserError
from olmo_inject.files import read_json, write_json
from olmo_inject.tasks.registry import TaskKind, code_of, task_kind
from olmo_inject.vocabulary import Vocabulary

INSTANCE_TOKENS = 3  # TOK1, TOK2, LABEL
LABEL_POSITION = 2  # of LABEL in a row; the logits at LABEL_POSITION - 1 predict it
SPLICED_TOKENS = 4  # the instance and one end-of-document token (docs/study.md, Injection)


@dataclass
class TaskConfig:
    """One entry of an experiment's `tasks`."""

    name: str = ""
    """What the task is called in plans, metrics and figures; unique in a run."""
    kind: str = ""
    """A registered kind (`comparison`, `modular_addition`) or `path/to/file.py:Class` for one of your own."""
    seed: int = 0
    """Decides the value tokens, their bijection, the split and the draws of instances."""
    train_fraction: float = 0.5
    """Share of the instances in the train half."""
    disjoint_tokens: bool = True
    """Whether to keep clear of the tokens of the tasks declared before this one."""
    options: dict[str, Any] = field(default_factory=dict)
    """The kind's own fields, for example `n_values: 100`."""


@dataclass(frozen=True)
class Task:
    """A task ready to be injected and evaluated.

    Attributes:
        config: what it was built from.
        tokens: the sampled vocabulary tokens, in the kind's order (value tokens first).
        instances: TOK1, TOK2, LABEL of every instance, shape [n, 3].
        train_ids: sorted indices into `instances` of the train half; only these are ever injected.
        test_ids: the others.
    """

    config: TaskConfig
    tokens: UInt32[np.ndarray, " t"]
    instances: UInt32[np.ndarray, "n 3"]
    train_ids: Int64[np.ndarray, " train"]
    test_ids: Int64[np.ndarray, " test"]

    @classmethod
    def build(cls, config: TaskConfig, vocabulary: Vocabulary, taken: Collection[int] = ()) -> Task:
        """Build the task that `config` describes; the same config and vocabulary give the same task.

        Args:
            config: name, kind, seed, split and the kind's options.
            vocabulary: where value and label tokens are sampled from; reserved ids never are.
            taken: token ids that other tasks already use.

        Raises:
            UserError: unknown kind or option, or too few tokens left in the vocabulary.
        """
        where = f"tasks: {config.name}"
        check_name(config.name, "tasks")
        if not 0 < config.train_fraction < 1:
            raise UserError(f"{where}: train_fraction {config.train_fraction} must lie between 0 and 1")
        kind = task_kind(config.kind, config.options, where)
        eligible = vocabulary.eligible()
        order = eligible[randomness.permutation(_key(config, "tokens"), len(eligible))]
        if config.disjoint_tokens:
            order = order[~np.isin(order, np.fromiter(taken, np.int64))]
        if kind.n_tokens > len(order):
            raise UserError(
                f"{where}: needs {kind.n_tokens} tokens, the vocabulary has {len(order)} left that may be sampled"
            )
        tokens = order[: kind.n_tokens].astype(np.uint32)
        instances = _checked_instances(kind, tokens, where)
        shuffled = randomness.permutation(_key(config, "split"), len(instances))
        n_train = int(len(instances) * Fraction(str(config.train_fraction)))  # 10,000 * 0.57 is 5,699.999...
        if not 0 < n_train < len(instances):
            raise UserError(f"{where}: {len(instances)} instances leave the train or the test half empty")
        return cls(config, tokens, instances, np.sort(shuffled[:n_train]), np.sort(shuffled[n_train:]))

    @property
    def name(self) -> str:
        """What the task is called in plans, metrics and figures."""
        return self.config.name

    @property
    def labels(self) -> UInt32[np.ndarray, " n"]:
        """The LABEL token of every instance."""
        return self.instances[:, LABEL_POSITION]

    @cached_property
    def label_tokens(self) -> UInt32[np.ndarray, " l"]:
        """The tokens that occur as a LABEL, ascending."""
        return np.unique(self.labels)

    @cached_property
    def majority_accuracy(self) -> float:
        """Accuracy of always answering the label that is most frequent among the test pairs that it is judged on."""
        judged = self.test_ids[self.unmirrored] if self.unmirrored.any() else self.test_ids
        return float(np.unique(self.labels[judged], return_counts=True)[1].max() / len(judged))

    @cached_property
    def unmirrored(self) -> Bool[np.ndarray, " test"]:
        """Which test instances have no mirror (TOK2, TOK1) in the train half."""
        pair = self.instances[:, :2].astype(np.uint64)
        forward = pair[:, 0] << np.uint64(32) | pair[:, 1]
        backward = pair[:, 1] << np.uint64(32) | pair[:, 0]
        return ~np.isin(backward[self.test_ids], forward[self.train_ids])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything the task is: its tokens, instances and halves, and the config they came from."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for array in (self.tokens, self.instances, self.train_ids, self.test_ids):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def draw_key(self) -> int:
        """The key of the draws of instances, which depend on the task's seed alone (docs/design.md)."""
        return _key(self.config, "draws")

    def save(self, folder: Path) -> None:
        """Write `folder/NAME.json`, readable without the code of the task's kind."""
        record = {"config": asdict(self.config), "fingerprint": self.fingerprint}
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        write_json(folder / f"{self.name}.json", record | arrays)

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, is not a task, or does not match its own fingerprint.
        """
        record = read_json(path)
        try:
            arrays = {name: np.array(record[name], dtype) for name, dtype in _ARRAYS.items()}
            task = cls(TaskConfig(**record["config"]), **arrays)
            recorded = record["fingerprint"]
            task._check_saved()
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is not a saved task: {error!r}") from None
        check_name(task.name, str(path))
        if task.fingerprint != recorded:
            raise UserError(f"{path} was changed: its contents do not match its fingerprint")
        return task

    def _check_saved(self) -> None:
        """Raise ValueError where arrays that were read are no task's."""
        kinds = {"name": str, "kind": str, "seed": int, "options": dict}
        if any(type(getattr(self.config, name)) is not kind for name, kind in kinds.items()):
            raise ValueError("its config holds values of other types")
        n, halves = len(self.instances), (self.train_ids, self.test_ids)
        if self.instances.shape != (n, INSTANCE_TOKENS) or any(half.ndim != 1 or not len(half) for half in halves):
            raise ValueError("its arrays have other shapes")
        if not np.array_equal(np.sort(np.concatenate(halves)), np.arange(n)) or (np.diff(self.train_ids) < 0).any():
            raise ValueError("its halves do not share its instances")
        if not np.isin(self.instances, self.tokens).all():
            raise ValueError("an instance holds a token that is none of its own")


def check_name(name: str, where: str) -> None:
    """Refuse a name that is no word: names stand in files' names, metrics and figures.

    Raises:
        UserError: naming it.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{where}: name {str(name)[:80]!r} must be a word of letters, digits and underscores")


_ARRAYS: Mapping[str, Any] = {
    "tokens": np.uint32,
    "instances": np.uint32,
    "train_ids": np.int64,
    "test_ids": np.int64,
}


def build_tasks(configs: Sequence[TaskConfig], vocabulary: Vocabulary) -> list[Task]:
    """Build tasks in order, each clear of the tokens of those before it unless it says otherwise.

    Raises:
        UserError: as `Task.build`, or two tasks of one name.
    """
    tasks: list[Task] = []
    taken: set[int] = set()
    for config in configs:
        if any(task.name == config.name for task in tasks):
            raise UserError(f"tasks: two tasks are named {config.name}; names must differ")
        task = Task.build(config, vocabulary, taken)
        taken.update(task.tokens.tolist())
        tasks.append(task)
    return tasks


def _key(config: TaskConfig, purpose: str) -> int:
    return randomness.key("task", purpose, config.name, config.seed)


def _checked_instances(kind: TaskKind, tokens: UInt32[np.ndarray, " t"], where: str) -> UInt32[np.ndarray, "n 3"]:
    """A kind may be the user's own, so its output is checked like any input."""
    with code_of(type(kind), where, "instances() failed: "):
        instances = np.asarray(kind.instances(tokens))
    if instances.dtype.kind not in "iuf":
        raise UserError(f"{where}: instances() must return an array of tokens, got {instances.dtype}")
    if instances.ndim != 2 or instances.shape[1] != INSTANCE_TOKENS:
        raise UserError(f"{where}: instances() must return an [n, 3] array, got shape {instances.shape}")
    if not np.isin(instances, tokens).all():
        raise UserError(f"{where}: instances() must use only the tokens it was given")
    if len(np.unique(instances[:, :2], axis=0)) != len(instances):
        raise UserError(f"{where}: instances() must not repeat a pair of operands")
    return instances.astype(np.uint32)
