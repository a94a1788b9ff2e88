"""Instances put into rows that somebody has read, with the masks and document lengths that follow from it.

The rows may come from any corpus and any loader: all that decides what is put where is the plan, the step and the rows'
numbers in the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from olmo_inject.injection.plan import Injections, Plan
from olmo_inject.tasks import INSTANCE_TOKENS, SPLICED_TOKENS


class Splice:
    """Puts a plan's instances into rows: each starts with its instance and one end-of-document token.

    Position p is row `p % B` of step `p // B`.

    Args:
        plan: what is injected.
        eos_id: the end-of-document token that follows an instance.
    """

    def __init__(self, plan: Plan, eos_id: int) -> None:
        self.plan = plan
        self.eos_id = eos_id

    def __call__(
        self, tokens: Shaped[np.ndarray, "b t"], step: int, rows: Int64[np.ndarray, " b"]
    ) -> Bool[np.ndarray, "b t"]:
        """Write what `step` injects into `tokens`, in place.

        Args:
            tokens: of some rows of the global batch, as the host has them; [b, T], of any integer type.
            step: from 0.
            rows: which rows of the global batch they are.

        Returns:
            Which tokens were written, [b, T].
        """
        written = np.zeros(tokens.shape, bool)
        written[self.into(tokens, step * self.plan.batch_size + rows), :SPLICED_TOKENS] = True
        return written

    def into(self, tokens: Shaped[np.ndarray, "b t"], positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " k"]:
        """Write what is injected at `positions` into `tokens`, in place; returns which of them are injected."""
        spliced, instances = self._instances(positions)
        if len(spliced):
            tokens[spliced, :INSTANCE_TOKENS] = instances
            tokens[spliced, INSTANCE_TOKENS] = self.eos_id
        return spliced

    def _instances(self, positions: Int64[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
        """Which of `positions` (as indices into it) are injected, and their instances' tokens [k, 3]."""
        steps, rows = np.divmod(positions, self.plan.batch_size)
        where, what = [], []
        # A loader's batch lies in one step; only a user's own sampler mixes them.
        for step in dict.fromkeys(steps.tolist()):
            entries = self.plan.entries_of(step, rows)
            spliced = np.flatnonzero((entries >= 0) & (steps == step))
            ours = entries[spliced]  # of a rank's share of the batch; tokens of the others are not needed
            where.append(spliced)
            what.append(self.plan.tokens(Injections(*(column[ours] for column in self.plan.at(step)))))
        if not where:
            return np.empty(0, np.int64), np.empty((0, INSTANCE_TOKENS), np.uint32)
        return np.concatenate(where), np.concatenate(what)


def lift_masks(
    targets: Bool[np.ndarray, "b t"],
    host_counts: Bool[np.ndarray, " b"] | None,
    spliced: Int64[np.ndarray, " k"],
) -> Bool[np.ndarray, " b"]:
    """Have the spliced tokens count as targets, and nothing else that the host's masks leave out; in place.

    Args:
        targets: which tokens count.
        host_counts: in which rows any do (ai2-olmo's `instance_mask`), if there is such a mask.
        spliced: the injected rows.

    Returns:
        In which rows spliced tokens count although the host's masks leave them out.
    """
    if host_counts is not None:
        # `instance_mask` covers a whole row, so it is lifted and what is the host's is masked token by token.
        targets[spliced[~host_counts[spliced]]] = False
        host_counts[spliced] = True
    overridden = np.zeros(len(targets), bool)
    overridden[spliced] = ~targets[spliced, :SPLICED_TOKENS].all(axis=1)
    targets[spliced, :SPLICED_TOKENS] = True
    return overridden


def document_lengths(tokens: np.ndarray, eos_id: int) -> Int64[np.ndarray, " d"]:
    """Lengths of the documents in a row, each up to and with its EOS; the rest is a document too."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    if not len(ends) or ends[-1] != len(tokens):
        ends = np.append(ends, len(tokens))
    return np.diff(ends, prepend=0)


def padded_lengths(tokens: Shaped[np.ndarray, "b t"], eos_id: int) -> Int64[np.ndarray, "b d"]:
    """`document_lengths` of each row, with zeros where a row has fewer than another."""
    lengths: Sequence[np.ndarray] = [document_lengths(row, eos_id) for row in tokens]
    out = np.zeros((len(lengths), max(map(len, lengths))), np.int64)
    for row, values in enumerate(lengths):
        out[row, : len(values)] = values
    return out
