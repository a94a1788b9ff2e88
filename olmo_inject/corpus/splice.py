"""Replace tokens of rows by instances, and adapt masks and document lengths.

The rows may come from any corpus and any loader. The plan, the step and the rows' numbers in the global batch alone
decide which tokens are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from olmo_inject.injection.layout import InjectedSpans, InstanceLayout
from olmo_inject.injection.plan import Plan


class Splice:
    """Writes a plan's instances into rows, where their entries place them.

    Position p is row `p % B` of step `p // B`.

    Args:
        plan: what is injected.
        eos_id: the end-of-document token beside an instance.
    """

    def __init__(self, plan: Plan, eos_id: int) -> None:
        self.plan = plan
        self.eos_id = eos_id
        self._of_length: dict[int, InstanceLayout] = {}

    def __call__(
        self, tokens: Shaped[np.ndarray, "b t"], step: int, rows: Int64[np.ndarray, " b"]
    ) -> Bool[np.ndarray, "b t"]:
        """Write what `step` injects into `tokens`, in place.

        Args:
            tokens: host tokens of some rows of the global batch, [b, T], of any integer dtype.
            step: plan step, from 0.
            rows: numbers of these rows in the global batch.

        Returns:
            Which tokens were written, [b, T].
        """
        written = np.zeros(tokens.shape, bool)
        spans = self.into(tokens, self.plan.positions(step, rows))
        written[spans.row, spans.column] = True
        return written

    def into(self, tokens: Shaped[np.ndarray, "b t"], positions: Int64[np.ndarray, " b"]) -> InjectedSpans:
        """Write the instances at `positions` into `tokens`, in place. Returns what was written and where."""
        spans = self.at(positions, tokens.shape[1], tokens if self.reads_host else None)
        spans.write(tokens)
        return spans

    def at(
        self, positions: Int64[np.ndarray, " b"], row_length: int, host: Shaped[np.ndarray, "b t"] | None
    ) -> InjectedSpans:
        """The tokens to inject at `positions`, and where. Rows of several steps come in the order of the steps.

        Args:
            positions: any positions.
            row_length: tokens per row.
            host: host tokens of these rows; needed only if `reads_host`.
        """
        steps, rows = np.divmod(positions, self.plan.batch_size)
        layout, parts = self.layout(row_length), []
        if len(steps) and (steps == steps[0]).all():  # a loader's batch; only a user's own sampler mixes steps
            return layout.at(int(steps[0]), rows, host)
        for step in dict.fromkeys(steps.tolist()):
            of_step = np.flatnonzero(steps == step)
            part = layout.at(step, rows[of_step], None if host is None else host[of_step])
            parts.append(replace(part, span_row=of_step[part.span_row]))
        return parts[0].followed_by(parts[1:]) if parts else layout.at(0, rows)

    def layout(self, row_length: int) -> InstanceLayout:
        """The layout of instances in rows of this length.

        Raises:
            UserError: an instance that does not fit them.
        """
        if row_length not in self._of_length:
            self._of_length[row_length] = InstanceLayout(self.plan, row_length, self.eos_id)
        return self._of_length[row_length]

    @property
    def reads_host(self) -> bool:
        """Whether a place depends on the host's tokens."""
        return any(entry.placement.reads_host for entry in self.plan.entries)


def override_masks(
    targets: Bool[np.ndarray, "b t"],
    host_counts: Bool[np.ndarray, " b"] | None,
    spans: InjectedSpans,
) -> Bool[np.ndarray, " b"]:
    """Make spliced tokens count as targets, and no others that the host's masks leave out; in place.

    Args:
        targets: which tokens count.
        host_counts: rows that count at all (ai2-olmo's `instance_mask`), if there is such a mask.
        spans: what is injected into the rows.

    Returns:
        Rows in which spliced tokens count although the host's masks leave them out.
    """
    if host_counts is not None:
        # `instance_mask` covers a whole row, so it is overridden, and the host's tokens are masked one by one.
        spliced = spans.span_row
        targets[spliced[~host_counts[spliced]]] = False
        host_counts[spliced] = True
    overridden = np.zeros(len(targets), bool)
    overridden[spans.row[~targets[spans.row, spans.column]]] = True
    targets[spans.row, spans.column] = True
    return overridden


def document_lengths(tokens: np.ndarray, eos_id: int) -> Int64[np.ndarray, " d"]:
    """Lengths of the documents in a row, each including its EOS. Tokens after the last EOS are a document too."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    if not len(ends) or ends[-1] != len(tokens):
        ends = np.append(ends, len(tokens))
    return np.diff(ends, prepend=0)


def padded_lengths(tokens: Shaped[np.ndarray, "b t"], eos_id: int) -> Int64[np.ndarray, "b d"]:
    """`document_lengths` of each row, padded with zeros."""
    lengths: Sequence[np.ndarray] = [document_lengths(row, eos_id) for row in tokens]
    out = np.zeros((len(lengths), max(map(len, lengths))), np.int64)
    for row, values in enumerate(lengths):
        out[row, : len(values)] = values
    return out
