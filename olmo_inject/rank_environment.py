"""Read from the environment whether this process is a rank of a run, and which ranks are beside it."""

from __future__ import annotations

import os

# torchrun sets these for each rank, and torch needs them to connect the ranks.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_RANKS_ALONE = VARIABLES[:3]  # a cluster may set the address for its own use


def is_rank() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return all(os.environ.get(name) for name in VARIABLES)


def is_first_rank() -> bool:
    """Whether this process reports for all ranks. A process that is not a rank does."""
    return not is_rank() or os.environ["RANK"] == "0"


def ranks_on_this_node(ranks: int) -> int:
    """How many of a run's `ranks` are on this node; all of them where the launcher does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or ranks)


def leftovers() -> list[str]:
    """Variables of a rank that are set although this process is not a rank."""
    return [] if is_rank() else [name for name in _OF_RANKS_ALONE if name in os.environ]
