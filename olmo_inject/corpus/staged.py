"""A staged corpus: the sequences of some steps in training order, which reads like the corpus it was copied from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from olmo_inject.corpus.folder import STAGING, TOKENIZER
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.utils.files import read_fields, write_json
from olmo_inject.utils.owned_folder import FolderKind
from olmo_inject.vocabulary import Vocabulary

FORMAT = 1
STAGE = "stage.json"
STAGE_FOLDER = FolderKind(
    "stage",
    re.compile(r"(stage|tokenizer)\.json|part-\d{5,}\.npy|\.(stage\.json|part-\d{5,}\.npy)\.\d+\.tmp"),
    STAGING,
    (STAGE, STAGING),
    "staging there",
)


@dataclass(frozen=True)
class StageFile:
    """One file of a stage: whole sequences of raw ids."""

    name: str
    sequences: int
    sha256: str


@dataclass(frozen=True)
class RankRange:
    """The rows that ranks `first` to `last` of `world` read; rank r % world reads row r of a batch."""

    first: int
    last: int
    world: int

    def __str__(self) -> str:
        return f"ranks {self.first}-{self.last} of {self.world}"


@dataclass(frozen=True)
class StageRecord:
    """The content of `stage.json`; "the corpus" is the one that was staged.

    Attributes:
        folder: of the stage, absolute.
        corpus: fingerprint of the corpus.
        corpus_sequences: length of the corpus, which with batch size and seed decides the order.
        batch_size: rows of a step.
        seed: of the order.
        first_step: first step in the stage.
        beyond_step: first step after the stage.
        ranks: whose rows are in the stage; None: all rows.
        sequence_length: tokens.
        dtype: of an id.
        tokenizer: the folder's own `tokenizer.json`, the name of a bundled one, or None for bare ids.
        vocabulary: fingerprint of the vocabulary.
        vocab_size: number of ids.
        eos_token_id: ends documents.
        pad_token_id: does not occur in the corpus.
        files: in order.
        contents: `TokenShards.contents` of the corpus, if known.
    """

    folder: Path
    corpus: str
    corpus_sequences: int
    batch_size: int
    seed: int
    first_step: int
    beyond_step: int
    ranks: RankRange | None
    sequence_length: int
    dtype: str
    tokenizer: str | None
    vocabulary: str
    vocab_size: int
    eos_token_id: int
    pad_token_id: int
    files: tuple[StageFile, ...] = ()
    contents: str | None = None

    @property
    def rows(self) -> Int64[np.ndarray, " r"]:
        """The rows of each batch that are in the stage."""
        rows = np.arange(self.batch_size)
        if self.ranks is None:
            return rows
        ranks = rows % self.ranks.world
        return rows[(ranks >= self.ranks.first) & (ranks <= self.ranks.last)]

    @property
    def sequences(self) -> int:
        """Number of sequences in the stage."""
        return (self.beyond_step - self.first_step) * len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.sequences * self.sequence_length * np.dtype(self.dtype).itemsize

    def positions(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The position in the training order of each place in the stage."""
        rows = self.rows
        steps, within = np.divmod(places, len(rows))
        return (self.first_step + steps) * self.batch_size + rows[within]

    def load_vocabulary(self) -> Vocabulary:
        """The vocabulary of the corpus.

        Raises:
            UserError: its tokenizer is missing or another one.
        """
        if self.tokenizer is None:
            return Vocabulary.without_tokenizer(self.vocab_size, self.eos_token_id, self.pad_token_id)
        tokenizer = str(self.folder / TOKENIZER) if self.tokenizer == TOKENIZER else self.tokenizer
        vocabulary = Vocabulary.load(
            tokenizer, eos_id=self.eos_token_id, pad_id=self.pad_token_id, size=self.vocab_size
        )
        if vocabulary.fingerprint != self.vocabulary:
            raise UserError(f"{tokenizer} is not the tokenizer that {self.folder} was staged with")
        return vocabulary


class StageOrder(Order):
    """Maps positions to places in the stage, where sequences are in training order.

    Args:
        stage: the stage.
        batch_size: must be that of the stage.
        seed: must be that of the stage.

    Raises:
        UserError: the stage was made for another batch size or seed.
    """

    def __init__(self, stage: StageRecord, batch_size: int, seed: int) -> None:
        for name, given, staged in (
            ("batch size", batch_size, stage.batch_size),
            ("corpus.seed", seed, stage.seed),
        ):
            if given != staged:
                raise UserError(f"{name}: {given}, but {stage.folder} was staged with {staged}")
        super().__init__(stage.corpus_sequences, batch_size, seed)
        self.stage = stage
        rows = stage.rows
        self._rows_per_step = len(rows)
        self._row_places = np.full(batch_size, -1, np.int64)
        self._row_places[rows] = np.arange(len(rows))

    def __reduce__(self) -> tuple[Any, ...]:
        return StageOrder, (self.stage, self.batch_size, self.seed)

    def __getitem__(self, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """The places of `positions` in the stage.

        Raises:
            UserError: a position is not in the stage.
        """
        steps, rows = np.divmod(positions, self.batch_size)
        if len(steps):
            self.require(range(int(steps.min()), int(steps.max()) + 1), rows)
        return (steps - self.stage.first_step) * self._rows_per_step + self._row_places[rows]

    @property
    def rows(self) -> Int64[np.ndarray, " r"]:
        """As `Order.rows`."""
        return self.stage.rows

    def require(self, steps: range, rows: Int64[np.ndarray, " r"], what: str = "corpus.folder") -> None:
        """Check that the stage holds the given rows of every batch in the given steps.

        Args:
            steps: plan steps.
            rows: numbers of rows in a batch.
            what: the key or option that asks for them, for messages.

        Raises:
            UserError: it does not.
        """
        stage = self.stage
        if len(steps) and (steps[0] < stage.first_step or steps[-1] >= stage.beyond_step):
            asked = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
            raise UserError(
                f"{what}: {stage.folder} holds steps {stage.first_step} to {stage.beyond_step - 1}, not {asked}"
            )
        missing = rows[self._row_places[rows] < 0]
        if len(missing):
            raise FoundByOneRank(
                f"{what}: {stage.folder} holds the rows of {stage.ranks}, not row {missing[0]} of a batch"
            )

    def prepare(self, n_positions: int, first: int = 0) -> None:
        """Do nothing: the sequences are on disk in this order."""

    def first_positions(self, sequences: Sequence[int], steps: int) -> dict[int, int]:
        """As `Order.first_positions`, for places in the stage, each of which is read once."""
        places = np.unique(np.array(sequences, np.int64))
        positions = self.stage.positions(places)
        read = positions < steps * self.batch_size
        return dict(zip(places[read].tolist(), positions[read].tolist(), strict=True))


class StagedShards(TokenShards):
    """The files of a stage, with the fingerprint of the corpus that was staged.

    Args:
        stage: the stage.
        sequence_length: must be that of the stage.
        vocab_size: as in `TokenShards`.
        sizes_checked: as in `TokenShards`; the stage records the sizes.

    Raises:
        UserError: a file is missing or of another size, or the stage was made for another sequence length.
    """

    is_running_text = False

    def __init__(
        self, stage: StageRecord, sequence_length: int, vocab_size: int | None = None, *, sizes_checked: bool = False
    ) -> None:
        if sequence_length != stage.sequence_length:
            raise UserError(
                f"sequence length: {sequence_length}, but {stage.folder} was staged with {stage.sequence_length}"
            )
        self.stage = stage
        nbytes = np.dtype(stage.dtype).itemsize * sequence_length
        super().__init__(
            [stage.folder / file.name for file in stage.files],
            sequence_length,
            stage.dtype,
            vocab_size,
            [file.sequences * nbytes for file in stage.files],
            sizes_checked=sizes_checked,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StagedShards, sizes_checked=True), (self.stage, self.sequence_length, self.vocab_size)

    @property
    def corpus_sequences(self) -> int:
        """As `TokenShards.corpus_sequences`."""
        return self.stage.corpus_sequences

    def fingerprint(self) -> str:
        """The original corpus's fingerprint, so that a run can move to the stage and back."""
        return self.stage.corpus

    def contents(self) -> str | None:
        """The original corpus's."""
        return self.stage.contents

    def identity(self) -> str:
        """As `TokenShards.identity`, of the stage: with its steps, its rows and the checksums of its files."""
        record = asdict(self.stage) | {"folder": str(self.stage.folder)}
        return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def write_stage(stage: StageRecord) -> None:
    """Write `stage.json`, which marks the stage as complete."""
    fields = asdict(stage)
    del fields["folder"]
    write_json(stage.folder / STAGE, {"format": FORMAT, "parts": fields.pop("files")} | fields)


def read_stage(folder: Path) -> StageRecord:
    """Read `stage.json`.

    Raises:
        UserError: no stage, or another format.
    """
    path = folder.resolve() / STAGE
    fields = read_fields(path, FORMAT, "stages")
    try:
        files = tuple(StageFile(**file) for file in fields.pop("parts"))
        ranks = fields.pop("ranks")
        ranks = None if ranks is None else RankRange(**ranks)
        return StageRecord(folder=path.parent, files=files, ranks=ranks, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the description of a stage: {error}") from None
