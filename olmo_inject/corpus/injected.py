"""The corpus with instances spliced in: maps a position to the row that the model is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch.utils.data import Dataset

from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.splice import Splice, override_masks, padded_lengths
from olmo_inject.errors import UserError
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.injection.plan import Plan

InstanceFilter = Callable[[np.ndarray], bool]


class InjectedCorpus(Dataset[dict[str, torch.Tensor]]):
    """A map-style dataset over positions, for any trainer. Its keys are ai2-olmo's, but it does not import ai2-olmo.

    Position p is row `p % B` of step `p // B`. Injected instances replace tokens of the host row where their entries
    place them: by default the first tokens, with one end-of-document token after them. All other tokens are the host's.

    Args:
        shards: the tokens.
        order: maps positions to sequences.
        plan: what is injected; its batch size must be the order's.
        eos_id: the end-of-document token that follows an instance.
        n_positions: length of the dataset, normally steps x batch size.
        instance_filter: decides whether the loss of a host sequence counts (ai2-olmo's n-gram repetition filter). If a
            host does not count, only the spliced tokens of its row do.
        label_masks: boolean shards beside the token shards. Spliced tokens always count.
        document_lengths: whether to return `doc_lens` too, computed after splicing.

    Raises:
        UserError: an instance does not fit into the rows.
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
        self.splice = Splice(plan, eos_id)
        self.splice.layout(shards.sequence_length)  # checks that instances fit
        self.eos_id = eos_id
        self.n_positions = n_positions
        self.instance_filter = instance_filter
        self.label_masks = label_masks
        self.document_lengths = document_lengths

    def __len__(self) -> int:
        return self.n_positions

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """The row at `position`: `input_ids` [T] and, if configured, `instance_mask`, `label_mask` and `doc_lens`.

        Raises:
            IndexError: the position is outside the dataset.
        """
        if not 0 <= position < self.n_positions:
            raise IndexError(f"position {position} is not in 0..{self.n_positions - 1}")
        return {key: value[0] for key, value in self.rows(np.array([position], np.int64)).items()}

    def rows(self, positions: Int64[np.ndarray, " b"]) -> dict[str, torch.Tensor]:
        """The rows at `positions`, stacked: `input_ids` int64 [b, T] and what is configured.

        With a filter or label masks, `instance_mask` [b] and `label_mask` [b, T] say which tokens are targets.
        `mask_overridden` [b] says in which rows the spliced tokens are targets although the host's masks leave them
        out.
        """
        rows = self.narrow_rows(positions)
        return rows | {"input_ids": torch.from_numpy(rows["input_ids"].numpy().astype(np.int64))}

    def narrow_rows(self, positions: Int64[np.ndarray, " b"]) -> dict[str, torch.Tensor]:
        """`rows`, with `input_ids` in the dtype of the shards: of uint16, a quarter of the bytes to hand over."""
        sequences = self.order[positions]
        tokens = self.shards.read(sequences)
        host_counts = None
        if self.instance_filter is not None:  # it judges the host, before tokens are replaced
            host_counts = np.array([self.instance_filter(row.astype(np.int64)) for row in tokens], bool)
        spans = self.splice.into(tokens, positions)
        out = {"input_ids": torch.from_numpy(tokens)}
        if host_counts is not None or self.label_masks is not None:
            out |= self._masks(sequences, spans, host_counts)
        if self.document_lengths:
            out["doc_lens"] = torch.from_numpy(padded_lengths(tokens, self.eos_id))
        return out

    def spans(self, positions: Int64[np.ndarray, " b"]) -> InjectedSpans:
        """The tokens to inject at `positions`. The corpus is read only if a place depends on it."""
        host = self.shards.read(self.order[positions]) if self.splice.reads_host else None
        return self.splice.at(positions, self.shards.sequence_length, host)

    def _masks(
        self,
        sequences: Int64[np.ndarray, " b"],
        spans: InjectedSpans,
        host_counts: Bool[np.ndarray, " b"] | None,
    ) -> dict[str, torch.Tensor]:
        """The masks of rows, overridden for the spliced tokens only."""
        shape = len(sequences), self.shards.sequence_length
        targets = np.ones(shape, bool) if self.label_masks is None else self.label_masks.read(sequences)
        out = {}
        overridden = override_masks(targets, host_counts, spans)
        if host_counts is not None:
            out["instance_mask"] = torch.from_numpy(host_counts)
        return out | {"label_mask": torch.from_numpy(targets), "mask_overridden": torch.from_numpy(overridden)}


class LabelMasks:
    """Boolean shards beside the token shards, one byte per token, which say which tokens are targets.

    Args:
        paths: of the masks, in the order of the shards.
        shards: the token shards.
        sizes_checked: as in `TokenShards`.

    Raises:
        UserError: a mask shard is missing or does not have its token shard's length.
    """

    def __init__(self, paths: Sequence[Path], shards: TokenShards, *, sizes_checked: bool = False) -> None:
        if len(paths) != len(shards.paths):
            raise UserError(
                f"train.data.label_mask_paths: {len(paths)} masks for {len(shards.paths)} shards; give one each"
            )
        sizes = shards.shard_tokens if sizes_checked else None
        self._masks = TokenShards(paths, shards.sequence_length, "uint8", sizes=sizes, sizes_checked=sizes_checked)
        for mask, shard, n_mask, n_shard in zip(
            paths, shards.paths, self._masks.shard_tokens, shards.shard_tokens, strict=True
        ):
            if n_mask != n_shard:
                raise UserError(f"corpus: label mask {mask} is not as long as its shard {shard}: {n_mask}, {n_shard}")

    def read(self, sequences: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, "b t"]:
        """The masks of `sequences`."""
        return self._masks.read(sequences).astype(bool)
