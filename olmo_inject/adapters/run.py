"""Open an experiment for another trainer: its plan, and its rows as a map-style dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import Dataset, Sampler

from olmo_inject.config import StreamExperiment, load_described
from olmo_inject.corpus.splice import Splice
from olmo_inject.data import ExperimentData, TaskPlan, build_data, build_plan
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.runs.read import run_of
from olmo_inject.training.loss import IGNORED
from olmo_inject.utils.number_ranges import check_ranks_share

INDEX = "index"  # batch key for the position p of each row: row p % B of step p // B


class InjectedRun:
    """An experiment that another trainer trains, with its data.

    Args:
        experiment: as returned by `load_described`.

    Raises:
        UserError: the corpus or a task cannot be built, or the injections need the host rows, which are unknown here.
    """

    def __init__(self, experiment: StreamExperiment) -> None:
        self.experiment = experiment
        self.data: TaskPlan = build_data(experiment) if experiment.has_host else build_plan(experiment)
        self.splice = Splice(self.data.plan, self.data.source.vocabulary.eos_id)
        if self.splice.reads_host and not experiment.has_host:
            raise UserError("injections: `place: document` needs the host rows, but the corpus names no shards")

    @classmethod
    def open(cls, config: Path | str, overrides: Sequence[str] = ()) -> InjectedRun:
        """Open the experiment in a YAML file.

        Args:
            config: path of the file, or the name of one in configs/experiments.
            overrides: changes as key=value.

        Raises:
            UserError: the file is invalid, or describes a run of ai2-olmo's trainer.
        """
        experiment = load_described(config, overrides)
        if not isinstance(experiment, StreamExperiment):
            raise UserError(f"{config}: `trainer` is not set, so ai2-olmo's trainer is meant; write `trainer: NAME`")
        run = run_of(config)
        if run is not None and run.has_own_code:
            raise UserError(f"{config} is in a run folder, whose task code is not executed: open the original file")
        return cls(experiment)

    def spans(self, positions: Int64[np.ndarray, " b"]) -> InjectedSpans:
        """The tokens to inject at `positions`, and where in the row."""
        if isinstance(self.data, ExperimentData):
            return self.data.corpus.spans(positions)
        return self.splice.at(positions, self.experiment.sequence_length, None)

    @property
    def plan(self) -> Plan:
        """The plan: which instance goes into which row of which step."""
        return self.data.plan

    @cached_property
    def dataset(self) -> InjectedRows:
        """The rows of all steps, in order.

        Raises:
            UserError: the corpus names no shards.
        """
        return InjectedRows(self)

    def check_rows(self, rows: int, how: str) -> None:
        """Check that the trainer's global batch has as many rows as the plan's.

        Args:
            rows: rows of the trainer's global batch.
            how: how the trainer arrives at this number, for the message.

        Raises:
            UserError: the numbers differ.
        """
        if rows != self.plan.batch_size:
            ours = self.plan.batch_size
            raise UserError(f"batch_size: {ours}, but the trainer's global batch has {rows} rows: {how}")

    def prepare_order(self) -> None:
        """Shuffle a long corpus once for all processes. One process calls it before the others read."""
        if isinstance(self.data, ExperimentData):
            self.data.order.prepare(len(self.data.corpus))


class InjectedRows(Dataset[dict[str, torch.Tensor]]):
    """Maps position p to `input_ids` [T], `labels` [T] (not shifted, -100 where masked) and `index` (p itself).

    Read it in order: step s is positions s*B to s*B + B - 1, where B is the global batch size, whichever process reads
    them.
    """

    def __init__(self, run: InjectedRun) -> None:
        if not isinstance(run.data, ExperimentData):
            raise UserError("corpus: none of name, folder and paths is set, so there are no rows to read; splice yours")
        self.corpus = run.data.corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """The row at `position`.

        Raises:
            IndexError: a position outside the run.
        """
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """The rows at `positions`, read together."""
        batch = self.batch(positions)
        return [{name: column[i] for name, column in batch.items()} for i in range(len(positions))]

    def batch(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """The rows at `positions`, stacked.

        Raises:
            IndexError: a position outside the run.
        """
        index = np.asarray(positions, np.int64)
        outside = index[(index < 0) | (index >= len(self))]
        if len(outside):
            raise IndexError(f"position {outside[0]} is not in 0..{len(self) - 1}")
        rows = self.corpus.rows(index)
        labels = rows["input_ids"].clone()
        if (mask := rows.get("label_mask")) is not None:
            labels[~mask] = IGNORED
        return {"input_ids": rows["input_ids"], "labels": labels, INDEX: torch.from_numpy(index)}


class RankBatches(Sampler[list[int]]):
    """The positions that one process reads, one list per step: rows `rank`, `rank + world`, ... of the global batch.

    Use it as `DataLoader(run.dataset, batch_sampler=RankBatches(run), collate_fn=collate)`.

    Args:
        run: the experiment.
        rank: of this process.
        world: number of processes; it must divide the batch size.
        first_step: first step to read, the completed steps of the checkpoint that is continued.

    Raises:
        UserError: the batch is not divisible by the processes.
    """

    def __init__(self, run: InjectedRun, rank: int = 0, world: int = 1, first_step: int = 0) -> None:
        self.batch_size, self.steps = run.plan.batch_size, run.experiment.steps
        check_ranks_share(self.batch_size, world, "batch_size")
        self.rank, self.world, self.first_step = rank, world, first_step

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            first = step * self.batch_size
            yield list(range(first + self.rank, first + self.batch_size, self.world))


def collate(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack rows into a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
