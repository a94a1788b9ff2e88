"""What the environment says of this process among the ranks of a run."""

from __future__ import annotations

import os

# What torchrun tells each of its ranks, and torch needs to join them.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_RANKS_ALONE = VARIABLES[:3]  # a cluster may set the address for its own use


def is_rank() -> bool:
    """Whether torchrun, or another launcher that sets all that it does, started this process."""
    return all(os.environ.get(name) for name in VARIABLES)


def is_first_rank() -> bool:
    """Whether this process speaks for all ranks of a run; outside a run each does."""
    return not is_rank() or os.environ["RANK"] == "0"


def leftovers() -> list[str]:
    """Variables of a rank that are set although this process is none."""
    return [] if is_rank() else [name for name in _OF_RANKS_ALONE if name in os.environ]
