"""Starts the ranks of a run with torchrun's own agent, one on each node. A run of one rank needs no agent."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Sequence

from olmo_inject.errors import UserError
from olmo_inject.rank_environment import VARIABLES, leftovers

USER_ERROR = 2  # exit status of a user's mistake
_LOOPBACK = "127.0.0.1"  # on one node; a host's name need not resolve
# The C library gives large blocks back to the system at once and asks for them again, which costs a small model
# on a CPU a fifth of its time; so it keeps them, up to a gigabyte.
_ALLOCATOR = {  # the variable of a new process: its value, and the number of mallopt's parameter
    "MALLOC_MMAP_THRESHOLD_": (2**25, -3),  # the most that all versions of glibc accept
    "MALLOC_TRIM_THRESHOLD_": (2**30, -1),
}


def default_processes() -> int:
    """One per GPU of this machine, or one."""
    import torch

    return max(1, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def check_launch(nodes: int, rendezvous: str | None) -> None:
    """Refuse to start ranks as a part of what another launcher has started, and what cannot join several nodes.

    Raises:
        UserError: an environment of a rank that lacks something; no nodes, several without a place to meet, or one
            that is no HOST:PORT.
    """
    if left := leftovers():
        raise UserError(
            f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} set, as for a rank, but not all of "
            f"{', '.join(VARIABLES)}: unset {'it' if len(left) == 1 else 'them'}, or start with torchrun"
        )
    if nodes < 1:
        raise UserError(f"--nodes: {nodes} must be at least 1")
    if nodes > 1 and rendezvous is None:
        raise UserError(f"--nodes: {nodes} nodes need --rendezvous HOST:PORT, HOST being one of them")
    if rendezvous is not None:
        place = re.fullmatch(r"[^:\s]+:(\d{1,5})", rendezvous)
        if place is None or not 0 < int(place[1]) < 2**16:
            raise UserError(f"--rendezvous: {rendezvous!r} is not HOST:PORT, with a port from 1 to 65535")


def be_the_only_rank() -> None:
    """Give this process the threads and the allocator that `run_ranks` gives to ranks.

    A run of one rank is trained by the command itself, which saves the start of a second Python and of the agent.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, (value, parameter) in _ALLOCATOR.items():
        if mallopt is not None and name not in os.environ:
            mallopt(parameter, value)


def run_ranks(
    module: str, arguments: Sequence[str], processes: int, *, nodes: int = 1, rendezvous: str | None = None
) -> int:
    """Run `python -m module arguments` as `processes` ranks here and wait for them.

    SIGTERM and Ctrl-C are passed on to the ranks, which are waited for and killed after 30 s.

    Args:
        module: what each rank runs.
        arguments: its command line.
        processes: ranks on this node.
        nodes: how many nodes do the same, and wait for each other.
        rendezvous: HOST:PORT where they meet, the same on all; HOST is one of them. Not needed for one node.

    Returns:
        The exit status: 0, 2 for a user's mistake, which the rank has reported, 128 + the signal's number
        where one ended the run, or 1.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if processes < 1:
        raise UserError(f"--processes: {processes} must be at least 1")
    check_launch(nodes, rendezvous)
    # What a rank could not mend it has said itself; the agent's log would bury it.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Unset, every rank would start a thread per core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for name, (value, _) in _ALLOCATOR.items():
        os.environ.setdefault(name, str(value))
    try:
        # Where torch would keep logs of its own, which are empty and which it leaves behind.
        with tempfile.TemporaryDirectory(prefix="olmo-inject-") as logs:
            config = LaunchConfig(
                min_nodes=nodes,
                max_nodes=nodes,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint=rendezvous or f"{_LOOPBACK}:0",  # a free port
                local_addr=_LOOPBACK if nodes == 1 else None,
                run_id=f"olmo-inject-{rendezvous or os.getpid()}",
                max_restarts=0,  # a rerun resumes; restarting here would hide what went wrong
                monitor_interval=0.2,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
            )
            rank = ("-m", "olmo_inject.training.rank", str(os.getpid()))
            elastic_launch(config, sys.executable)(*rank, module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode
        if status < 0:  # it could not say so itself
            print(f"olmo-inject: rank {rank} was killed by {failure.signal_name()}", file=sys.stderr, flush=True)
        return status if status == USER_ERROR else 1
    except SignalException as error:
        return 128 + (error.sigval.value if isinstance(error.sigval, signal.Signals) else int(error.sigval))
    return 0
