"""How many processor cores there are to use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Processor cores that this process may use. A container or a SLURM job may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
