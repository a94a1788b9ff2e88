"""Counterfactual pairs: the label that a base instance would have if one of its variables were a source instance's.

The answer is looked up in the task's table of instances, so this works for any task, including one of your own.
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
CANDIDATES = 8  # candidates drawn per wanted pair
UNSEEN = 4  # one token in this many is left out of a search


@dataclass(frozen=True)
class Pairs:
    """Base and source instances of a task, with counterfactual labels.

    Attributes:
        base: operands (TOK1, TOK2) of the bases.
        source: operands (TOK1, TOK2) of the sources.
        label: the counterfactual label, as an index of the task's `label_tokens`.
        changed: whether the counterfactual label differs from the base's own.
        then: row of the task's table whose label is the counterfactual one.
    """

    base: Int64[torch.Tensor, "n 2"]
    source: Int64[torch.Tensor, "n 2"]
    label: Int64[torch.Tensor, " n"]
    changed: Bool[torch.Tensor, " n"]
    then: Int64[np.ndarray, " n"]

    @property
    def instances(self) -> int:
        """How many different instances the bases and sources are."""
        return len(torch.cat([self.base, self.source]).unique(dim=0))

    @property
    def no_swap(self) -> float:
        """The interchange accuracy of a model that knows the task if nothing is exchanged."""
        return 1 - self.changed.double().mean().item()


def operand_tokens(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[torch.Tensor, "n 2"]:
    """TOK1 and TOK2 of the given instances."""
    return torch.from_numpy(task.triples[ids, :LABEL_POSITION].astype(np.int64))


def label_places(task: Task, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Labels of the given instances, as indices of `label_tokens`."""
    return np.searchsorted(task.label_tokens, task.labels[ids])


def draw_pairs(
    task: Task, variable: str, ids: Int64[np.ndarray, " m"], n: int, purpose: str, *, distinct: bool = False
) -> Pairs:
    """Draw `n` pairs; the same arguments give the same pairs.

    Half of the pairs change the label, or more if too few of the drawn candidates keep it.

    Args:
        task: supplies instances and labels.
        variable: what is exchanged: `first` or `second` (the value of an operand), or `result` (the label itself).
        ids: the instances that bases and sources are drawn from.
        n: number of pairs.
        purpose: key of the random draws.
        distinct: whether to take each pair once, so that few instances give fewer than `n` pairs.

    Raises:
        UserError: no pair of these instances has a counterfactual label that differs from the base's.
    """
    if not len(ids):
        raise UserError(f"{task.name}: there are no instances to draw pairs from")
    drawn = integers(key("pairs", purpose, variable, task.name), 2 * CANDIDATES * n, len(ids))
    base, source = ids[drawn].reshape(2, -1)
    if distinct:
        once = np.sort(np.unique(base << 32 | source, return_index=True)[1])
        base, source = base[once], source[once]
    then = _counterfactual(task, variable, base, source)
    known = then >= 0  # the table need not hold every pair of operands
    base, source, then = base[known], source[known], then[known]
    label = label_places(task, then)
    changed = label != label_places(task, base)
    of_changed, of_kept = np.flatnonzero(changed), np.flatnonzero(~changed)
    if not len(of_changed):
        raise UserError(f"{task.name}: no two instances differ in {variable} and in what the label would be")
    kept = of_kept[: min(n // 2, len(of_changed)) if distinct else n // 2]
    chosen = np.concatenate([of_changed[: n - len(kept)], kept])
    return Pairs(
        operand_tokens(task, base[chosen]),
        operand_tokens(task, source[chosen]),
        torch.from_numpy(label[chosen]),
        torch.from_numpy(changed[chosen]),
        then[chosen],
    )


def one_operand_accuracy(task: Task, pairs: Pairs) -> float:
    """How often the counterfactual label is guessed correctly from one operand alone; the better of the two operands.

    The guess is the most frequent label among the table's instances with that operand. An exchange that moves only one
    operand, or that spoils one and keeps the other, reaches this accuracy.
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
    """Split instances by their tokens: both operands among three quarters of the tokens, or both among the rest.

    A subspace found on the first group and tested on the second shows whether it holds values or only single tokens.
    """
    tokens = np.unique(task.triples[:, :LABEL_POSITION])
    unseen = tokens[permutation(key("unseen tokens", task.name), len(tokens))[: len(tokens) // UNSEEN]]
    of = np.isin(task.triples[ids, :LABEL_POSITION], unseen)
    return ids[~of.any(axis=1)], ids[of.all(axis=1)]


def _counterfactual(
    task: Task, variable: str, base: Int64[np.ndarray, " n"], source: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The instance whose label is the counterfactual one; -1 if the table has none."""
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
