"""The corpus with instances spliced in: position p -> what the model is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch.utils.data import Dataset

from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import UserError
from olmo_inject.injection.plan import Plan
from olmo_inject.injection.splicing import Splicer, Splices

InstanceFilter = Callable[[np.ndarray], bool]


class InjectedCorpus(Dataset[dict[str, torch.Tensor]]):
    """A map-style dataset over positions, for any trainer; ai2-olmo's keys, no ai2-olmo import.

    Position p is row `p % B` of step `p // B`. Injected instances replace tokens of the host's where their entries
    place them, by default the first ones, with one end-of-document token after them; all else is the host's.

    Args:
        shards: the tokens.
        order: position to sequence.
        plan: what is injected; its batch size must be the order's.
        eos_id: the end-of-document token that follows an instance.
        n_positions: length of the dataset, normally steps x batch size.
        instance_filter: says of a host sequence whether its loss counts (ai2-olmo's n-gram repetition
            filter); of an injected row whose host does not count, the spliced tokens alone do.
        label_masks: boolean shards beside the token shards; the spliced tokens always count.
        document_lengths: also give `doc_lens`, computed after splicing.
    """

    def __init__(
        self,
        shards: TokenShards,
        order: Order,
        plan: Plan,
        eos_id: int,
        n_positions: int,
        *,
        instance_filter: InstanceFilter | None = None,
        label_masks: LabelMasks | None = None,
        document_lengths: bool = False,
    ) -> None:
        assert plan.batch_size == order.batch_size
        self.shards = shards
        self.order = order
        self.plan = plan
        self.eos_id = eos_id
        self.n_positions = n_positions
        self.instance_filter = instance_filter
        self.label_masks = label_masks
        self.document_lengths = document_lengths
        self._splicer = Splicer(plan, shards.sequence_length, eos_id)

    def __len__(self) -> int:
        return self.n_positions

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """The row at `position`: `input_ids` [T] and, where configured, `instance_mask`, `label_mask`, `doc_lens`.

        Raises:
            IndexError: a position outside the dataset.
        """
        if not 0 <= position < self.n_positions:
            raise IndexError(f"position {position} is not in 0..{self.n_positions - 1}")
        return {key: value[0] for key, value in self.rows(np.array([position], np.int64)).items()}

    def rows(self, positions: Int64[np.ndarray, " b"]) -> dict[str, torch.Tensor]:
        """The rows at `positions`, stacked: `input_ids` int64 [b, T] and what is configured.

        Under a filter or label masks, `instance_mask` [b] and `label_mask` [b, T] say which tokens are targets, and
        `mask_overridden` [b] in which rows the spliced tokens are although the host's masks leave them out.
        """
        sequences = self.order[positions]
        tokens = self.shards.read(sequences)
        splices = self._splices(positions, tokens)
        host_counts = None
        if self.instance_filter is not None:  # asked of the host, before tokens of it are replaced
            host_counts = np.array([self.instance_filter(row.astype(np.int64)) for row in tokens], bool)
        tokens[splices.row, splices.column] = splices.value
        out = {"input_ids": torch.from_numpy(tokens.astype(np.int64))}
        if host_counts is not None or self.label_masks is not None:
            out |= self._masks(sequences, splices, host_counts)
        if self.document_lengths:
            out["doc_lens"] = _stack_padded([document_lengths(row, self.eos_id) for row in tokens])
        return out

    def _masks(
        self,
        sequences: Int64[np.ndarray, " b"],
        splices: Splices,
        host_counts: Bool[np.ndarray, " b"] | None,
    ) -> dict[str, torch.Tensor]:
        """The masks of rows, lifted for the spliced tokens and for nothing else."""
        shape = len(sequences), self.shards.sequence_length
        targets = np.ones(shape, bool) if self.label_masks is None else self.label_masks.read(sequences)
        out = {}
        if host_counts is not None:
            # `instance_mask` covers a whole row, so it is lifted and what is the host's is masked token by token.
            spliced = splices.span_row
            targets[spliced[~host_counts[spliced]]] = False
            host_counts[spliced] = True
            out["instance_mask"] = torch.from_numpy(host_counts)
        overridden = np.zeros(len(sequences), bool)
        overridden[splices.row[~targets[splices.row, splices.column]]] = True
        targets[splices.row, splices.column] = True
        return out | {"label_mask": torch.from_numpy(targets), "mask_overridden": torch.from_numpy(overridden)}

    def splices(self, positions: Int64[np.ndarray, " b"]) -> Splices:
        """Which tokens are injected into the rows at `positions`; the corpus is read only where a place depends on it.

        Rows of several steps come in the order of the steps.
        """
        host = self.shards.read(self.order[positions]) if self._splicer.reads_host else None
        return self._splices(positions, host)

    def _splices(self, positions: Int64[np.ndarray, " b"], host: np.ndarray | None) -> Splices:
        steps, rows = np.divmod(positions, self.plan.batch_size)
        parts = []
        # A loader's batch lies in one step; only a user's own sampler mixes them.
        for step in dict.fromkeys(steps.tolist()):
            of_step = np.flatnonzero(steps == step)
            part = self._splicer.at(step, rows[of_step], None if host is None else host[of_step])
            parts.append(part._replace(span_row=of_step[part.span_row], row=of_step[part.row]))
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._splicer.at(0, rows)
        spans = np.cumsum([0, *(len(part.start) for part in parts)])
        parts = [part._replace(span=part.span + first) for part, first in zip(parts, spans[:-1], strict=True)]
        return Splices(*map(np.concatenate, zip(*parts, strict=True)))


class LabelMasks:
    """Boolean shards beside the token shards, one byte a token: which tokens count as targets.

    Raises:
        UserError: a mask shard is missing or does not have its token shard's length.
    """

    def __init__(self, paths: Sequence[Path], shards: TokenShards) -> None:
        if len(paths) != len(shards.paths):
            raise UserError(f"corpus: {len(paths)} label masks for {len(shards.paths)} shards; give one each")
        self._masks = TokenShards(paths, shards.sequence_length, "uint8")
        for mask, shard, n_mask, n_shard in zip(
            paths, shards.paths, self._masks.shard_tokens, shards.shard_tokens, strict=True
        ):
            if n_mask != n_shard:
                raise UserError(f"corpus: label mask {mask} is not as long as its shard {shard}: {n_mask}, {n_shard}")

    def read(self, sequences: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, "b t"]:
        """The masks of `sequences`."""
        return self._masks.read(sequences).astype(bool)


def document_lengths(tokens: np.ndarray, eos_id: int) -> Int64[np.ndarray, " d"]:
    """Lengths of the documents in a row, each up to and with its EOS; the rest is a document too."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    if not len(ends) or ends[-1] != len(tokens):
        ends = np.append(ends, len(tokens))
    return np.diff(ends, prepend=0)


def _stack_padded(lengths: Sequence[np.ndarray]) -> torch.Tensor:
    out = np.zeros((len(lengths), max(map(len, lengths))), np.int64)
    for row, values in enumerate(lengths):
        out[row, : len(values)] = values
    return torch.from_numpy(out)
