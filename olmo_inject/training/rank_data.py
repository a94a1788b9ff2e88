"""The data of a rank, opened so that no work on shared files grows with the number of ranks."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
from olmo.torch_util import get_local_rank

from olmo_inject.config import Experiment
from olmo_inject.corpus.order import Stamp
from olmo_inject.corpus.staged import STAGE
from olmo_inject.data import ExperimentData, build_data
from olmo_inject.tasks import Task
from olmo_inject.training.agreement import from_rank_0, on_every_rank


def open_data(experiment: Experiment, tasks: list[Task] | None = None, *, every_node: bool = False) -> ExperimentData:
    """`build_data` on every rank. Rank 0 looks at every shard, and the others take the sizes it found (collective).

    A stage may differ between nodes, so one rank of each looks at it. Another node may also lack a shard that rank 0
    sees: its ranks then fail when they read it, and name it.

    Args:
        experiment: the run.
        tasks: as in `build_data`.
        every_node: one rank of each node looks at every shard.

    Raises:
        UserError: on every rank, as in `build_data`.
    """
    data: ExperimentData | None = None
    with on_every_rank("cannot read the corpus"):
        if dist.get_rank() == 0 or (get_local_rank() == 0 and (every_node or _may_differ(experiment))):
            data = build_data(experiment, tasks)
    sizes = from_rank_0(lambda: data.shards.sizes if data is not None else [], "cannot read the corpus")
    with on_every_rank("cannot read the corpus"):
        return build_data(experiment, tasks, sizes) if data is None else data


def _may_differ(experiment: Experiment) -> bool:
    folder = experiment.corpus.folder
    return folder is not None and (Path(folder) / STAGE).is_file()


def prepare_order(data: ExperimentData) -> None:
    """Store and check the shuffles that all processes map: rank 0, then one rank of each node that sees other files.

    Raises:
        UserError: on every rank, if a rank can store them nowhere, or a stored one is damaged.
    """
    order, n = data.order, len(data.corpus)

    def checked() -> set[Stamp]:
        order.prepare(n)
        return order.checked

    order.checked |= from_rank_0(checked, "cannot store the order")
    with on_every_rank("cannot store the order"):
        if get_local_rank() == 0:
            order.prepare(n)
