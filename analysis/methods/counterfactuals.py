"""Pairs of instances, and what the label would be if something of the one were as in the other.

What a task computes is read off its table of instances, so this holds for any task, also for one of the user's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from olmo_inject.errors import UserError
from olmo_inject.randomness import integers, key, permutation
from olmo_inject.tasks import LABEL_POSITION, Task

TOK1, TOK2 = 0, 1
VARIABLES = ("first", "second", "result")
CANDIDATES = 8  # drawn for each pair that is wanted
UNSEEN = 4  # one token in so many is left out of a search


@dataclass(frozen=True)
class Pairs:
    """Base and source instances of a task, and the label if one variable of the base were the source's.

    Attributes:
        base: operands, [n, 2].
        source: operands, [n, 2].
        label: the counterfactual label's place among the task's `label_tokens`.
        changed: whether it is another than the base's own.
        then: the instance that has that label, as a place in the task's table.
    """

    base: Int64[torch.Tensor, "n 2"]
    source: Int64[torch.Tensor, "n 2"]
    label: Int64[torch.Tensor, " n"]
    changed: Bool[torch.Tensor, " n"]
    then: Int64[np.ndarray, " n"]

    @property
    def no_swap(self) -> float:
        """The interchange accuracy of changing nothing, in a model that knows the task."""
        return 1 - self.changed.double().mean().item()


def operand_tokens(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[torch.Tensor, "n 2"]:
    """TOK1 and TOK2 of instances."""
    return torch.from_numpy(task.triples[ids, :LABEL_POSITION].astype(np.int64))


def label_places(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The label of instances, as a place among `label_tokens`."""
    return np.searchsorted(task.label_tokens, task.labels[ids])


def draw_pairs(task: Task, variable: str, ids: Int64[np.ndarray, " m"], n: int, purpose: str) -> Pairs:
    """`n` pairs, about half of which change the label where so many keep it by chance; the same ones each time.

    Args:
        task: the task.
        variable: `first` or `second`, an operand (its value), or `result`, the label itself.
        ids: the instances that bases and sources are from.
        n: how many.
        purpose: what the draws are keyed by.

    Raises:
        UserError: no pair of the instances has a counterfactual label that differs.
    """
    if not len(ids):
        raise UserError(f"{task.name}: there are no instances to draw pairs from")
    drawn = integers(key("pairs", purpose, variable, task.name), 2 * CANDIDATES * n, len(ids))
    base, source = ids[drawn].reshape(2, -1)
    then = _counterfactual(task, variable, base, source)
    known = then >= 0  # a table need not hold every pair of operands
    base, source, then = base[known], source[known], then[known]
    label = label_places(task, then)
    changed = label != label_places(task, base)
    of_changed, of_kept = np.flatnonzero(changed), np.flatnonzero(~changed)
    if not len(of_changed):
        raise UserError(f"{task.name}: no two instances differ in {variable} and in what the label would be")
    kept = of_kept[: n // 2]
    chosen = np.concatenate([of_changed[: n - len(kept)], kept])
    return Pairs(
        operand_tokens(task, base[chosen]),
        operand_tokens(task, source[chosen]),
        torch.from_numpy(label[chosen]),
        torch.from_numpy(changed[chosen]),
        then[chosen],
    )


def one_operand_accuracy(task: Task, pairs: Pairs) -> float:
    """How often the counterfactual label is guessed right from one operand of its instance, the better one of two.

    The guess is the label most frequent with that operand's value in the whole table. What exchanges no more than one
    operand, or spoils one and leaves the other, reaches this much.
    """
    labels = label_places(task, np.arange(len(task.triples)))
    shares = []
    for place in (TOK1, TOK2):
        values = np.unique(task.triples[:, place], return_inverse=True)[1]
        counts = np.zeros((values.max() + 1, labels.max() + 1), np.int64)
        np.add.at(counts, (values, labels), 1)
        shares.append(float((counts.argmax(axis=1)[values[pairs.then]] == pairs.label.numpy()).mean()))
    return max(shares)


def by_tokens(task: Task, ids: Int64[np.ndarray, " m"]) -> tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " u"]]:
    """Those of the instances whose operands are both of three quarters of the task's tokens, and both of the others.

    A search on the first says by the second whether it found something of the values or of single tokens.
    """
    tokens = np.unique(task.triples[:, :LABEL_POSITION])
    unseen = tokens[permutation(key("unseen tokens", task.name), len(tokens))[: len(tokens) // UNSEEN]]
    of = np.isin(task.triples[ids, :LABEL_POSITION], unseen)
    return ids[~of.any(axis=1)], ids[of.all(axis=1)]


def _counterfactual(
    task: Task, variable: str, base: Int64[np.ndarray, " n"], source: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The instance whose label holds then; -1 where the table has none."""
    if variable == "result":
        return source
    table = task.triples[:, :LABEL_POSITION].astype(np.int64)
    wanted = table[base].copy()
    place = VARIABLES.index(variable)
    wanted[:, place] = table[source, place]
    codes, sought = (pair[:, TOK1] << 32 | pair[:, TOK2] for pair in (table, wanted))
    order = np.argsort(codes)
    places = np.minimum(np.searchsorted(codes[order], sought), len(order) - 1)
    return np.where(codes[order][places] == sought, order[places], -1)
