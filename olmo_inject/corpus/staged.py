"""A staged corpus: the sequences of some steps in training order, read as the corpus that it was taken from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from olmo_inject.corpus.folder import TOKENIZER
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.files import read_json, write_json
from olmo_inject.vocabulary import Vocabulary

FORMAT = 1
STAGE = "stage.json"


@dataclass(frozen=True)
class StagePart:
    """One file of a stage: raw ids, whole sequences."""

    name: str
    sequences: int
    sha256: str


@dataclass(frozen=True)
class RankShard:
    """The rows that ranks `first` to `last` of `world` read: row r of a batch is rank r % world's."""

    first: int
    last: int
    world: int

    def __str__(self) -> str:
        return f"ranks {self.first}-{self.last} of {self.world}"


@dataclass(frozen=True)
class StageRecord:
    """What `stage.json` says.

    Attributes:
        folder: absolute.
        corpus: fingerprint of the corpus that was staged.
        corpus_sequences: its length, which with batch size and seed is the order.
        batch_size: rows of a step.
        seed: of the order.
        first_step: the first that is staged.
        beyond_step: the first that is not.
        ranks: whose rows are staged; None for all.
        sequence_length: tokens.
        dtype: of an id.
        tokenizer: the folder's own `tokenizer.json`, the name of a bundled one, or None for bare ids.
        vocabulary: fingerprint of the vocabulary.
        vocab_size: number of ids.
        eos_token_id: ends documents.
        pad_token_id: never in the shards.
        parts: the files in order.
        contents: as `TokenShards.contents` of the corpus that was staged, if it was known.
    """

    folder: Path
    corpus: str
    corpus_sequences: int
    batch_size: int
    seed: int
    first_step: int
    beyond_step: int
    ranks: RankShard | None
    sequence_length: int
    dtype: str
    tokenizer: str | None
    vocabulary: str
    vocab_size: int
    eos_token_id: int
    pad_token_id: int
    parts: tuple[StagePart, ...] = ()
    contents: str | None = None

    @property
    def rows(self) -> Int64[np.ndarray, " r"]:
        """The rows of each batch that are staged."""
        rows = np.arange(self.batch_size)
        if self.ranks is None:
            return rows
        ranks = rows % self.ranks.world
        return rows[(ranks >= self.ranks.first) & (ranks <= self.ranks.last)]

    @property
    def sequences(self) -> int:
        """How many are staged."""
        return (self.beyond_step - self.first_step) * len(self.rows)

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return self.sequences * self.sequence_length * np.dtype(self.dtype).itemsize

    def positions(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Place in the stage -> position in the order of training."""
        rows = self.rows
        steps, within = np.divmod(places, len(rows))
        return (self.first_step + steps) * self.batch_size + rows[within]

    def load_vocabulary(self) -> Vocabulary:
        """The vocabulary of the corpus that was staged.

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
    """Position -> place in the stage: the order of training is the order on disk.

    Raises:
        UserError: a batch size or seed that the stage was not made for.
    """

    def __init__(self, stage: StageRecord, batch_size: int, seed: int) -> None:
        for name, given, staged in (
            ("train.global_train_batch_size", batch_size, stage.batch_size),
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
            UserError: one that is not staged.
        """
        steps, rows = np.divmod(positions, self.batch_size)
        if len(steps):
            self.require(range(int(steps.min()), int(steps.max()) + 1), rows)
        return (steps - self.stage.first_step) * self._rows_per_step + self._row_places[rows]

    @property
    def rows(self) -> Int64[np.ndarray, " r"]:
        """The rows of each batch that are staged."""
        return self.stage.rows

    def require(self, steps: range, rows: Int64[np.ndarray, " r"], what: str = "corpus.folder") -> None:
        """Refuse steps or rows that are not staged; arguments as `Order.require`'s."""
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
        """Nothing: the order is on disk already."""


class StagedShards(TokenShards):
    """The files of a stage, with the fingerprint of the corpus that they were taken from.

    Raises:
        UserError: a missing file, or one of another size, or another sequence length.
    """

    def __init__(self, stage: StageRecord, sequence_length: int, vocab_size: int | None = None) -> None:
        if sequence_length != stage.sequence_length:
            raise UserError(
                f"model.max_sequence_length: {sequence_length}, but {stage.folder} was staged with "
                f"{stage.sequence_length}"
            )
        self.stage = stage
        nbytes = np.dtype(stage.dtype).itemsize * sequence_length
        super().__init__(
            [stage.folder / part.name for part in stage.parts],
            sequence_length,
            stage.dtype,
            vocab_size,
            [part.sequences * nbytes for part in stage.parts],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return StagedShards, (self.stage, self.sequence_length, self.vocab_size)

    def fingerprint(self) -> str:
        """The source's, so that a run may move from it to the stage and back."""
        return self.stage.corpus

    def contents(self) -> str | None:
        """The source's, likewise."""
        return self.stage.contents


def write_stage(stage: StageRecord) -> None:
    """Write `stage.json`, which makes the folder a staged corpus."""
    fields = asdict(stage)
    del fields["folder"]
    write_json(stage.folder / STAGE, {"format": FORMAT} | fields)


def read_stage(folder: Path) -> StageRecord:
    """Read `stage.json`.

    Raises:
        UserError: no stage, or one of another format.
    """
    path = folder.resolve() / STAGE
    fields = read_json(path)
    found_format = fields.pop("format", None) if isinstance(fields, dict) else None
    if found_format != FORMAT:
        raise UserError(f"{path} has format {found_format}; this version reads stages of format {FORMAT}")
    try:
        parts = tuple(StagePart(**part) for part in fields.pop("parts"))
        ranks = fields.pop("ranks")
        ranks = None if ranks is None else RankShard(**ranks)
        return StageRecord(folder=path.parent, parts=parts, ranks=ranks, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the description of a stage: {error}") from None
