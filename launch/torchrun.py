"""Start the ranks of a run with torchrun's own agent, one on each node. A run of one rank needs no agent."""

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
from olmo_inject.utils.cores import available_cores
from olmo_inject.utils.options import check_options

USER_ERROR = 2  # exit status of a user's mistake
_LOOPBACK = "127.0.0.1"  # for one node, since the host's name may not resolve
# The C library returns large blocks to the system at once and requests them again. That costs a small model on a CPU
# a fifth of its time, so the allocator is told to keep up to a gigabyte.
_ALLOCATOR = {  # environment variable for a new process: its value, and the parameter's number in mallopt
    "MALLOC_MMAP_THRESHOLD_": (2**25, -3),  # the largest value that every glibc accepts
    "MALLOC_TRIM_THRESHOLD_": (2**30, -1),
}


def default_processes() -> int:
    """One process per GPU of this machine; one if there is no GPU."""
    import torch

    return max(1, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def check_launch(nodes: int, rendezvous: str | None) -> None:
    """Check how ranks are to be started: not inside another launcher, and with a rendezvous if there are several nodes.

    Args:
        nodes: number of nodes.
        rendezvous: HOST:PORT where several nodes meet, or None.

    Raises:
        UserError: the environment holds a part of another launcher's variables, there are no nodes, or several nodes
            lack a valid rendezvous.
    """
    if left := leftovers():
        raise UserError(
            f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} set, as for a rank, but not all of "
            f"{', '.join(VARIABLES)}: unset {'it' if len(left) == 1 else 'them'}, or start with torchrun"
        )
    check_options(nodes=nodes)
    if nodes > 1 and rendezvous is None:
        raise UserError(f"--nodes: {nodes} nodes need --rendezvous HOST:PORT, HOST being one of them")
    if rendezvous is not None:
        place = re.fullmatch(r"[^:\s]+:(\d{1,5})", rendezvous)
        if place is None or not 0 < int(place[1]) < 2**16:
            raise UserError(f"--rendezvous: {rendezvous!r} is not HOST:PORT, with a port from 1 to 65535")


def be_the_only_rank() -> None:
    """Give this process the threads and the allocator settings that `run_ranks` gives to ranks.

    A run of one rank is trained by the command itself. That saves the start of a second Python process and of the
    agent.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, (value, parameter) in _ALLOCATOR.items():
        if mallopt is not None and name not in os.environ:
            mallopt(parameter, value)


def run_ranks(
    module: str, arguments: Sequence[str], processes: int, *, nodes: int = 1, rendezvous: str | None = None
) -> int:
    """Run `python -m module arguments` as `processes` ranks on this node and wait for them.

    SIGTERM and Ctrl-C are passed on to the ranks; ranks that still run after 30 s are killed.

    Args:
        module: the module that each rank runs.
        arguments: its command line.
        processes: ranks on this node.
        nodes: number of nodes that make the same call and wait for each other.
        rendezvous: HOST:PORT where the nodes meet, the same on all of them; HOST is one of them. Not needed for one
            node.

    Returns:
        The exit status: 0; 2 for a user's mistake, which the rank has reported; 128 + the signal's number if a signal
            ended the run; else 1.

    Raises:
        UserError: `processes` is below 1.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_options(processes=processes)
    check_launch(nodes, rendezvous)
    # A rank reports its own error; the agent's log would bury it.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # If OMP_NUM_THREADS is unset, every rank would start a thread per core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
    for name, (value, _) in _ALLOCATOR.items():
        os.environ.setdefault(name, str(value))
    try:
        # Torch would leave empty logs in this folder, so it is a temporary one.
        with tempfile.TemporaryDirectory(prefix="olmo-inject-") as logs:
            config = LaunchConfig(
                min_nodes=nodes,
                max_nodes=nodes,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint=rendezvous or f"{_LOOPBACK}:0",  # a free port
                local_addr=_LOOPBACK if nodes == 1 else None,
                run_id=f"olmo-inject-{rendezvous or os.getpid()}",
                max_restarts=0,  # the same command resumes; an automatic restart would hide the cause
                monitor_interval=0.2,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
            )
            rank = ("-m", "olmo_inject.training.rank", str(os.getpid()))
            elastic_launch(config, sys.executable)(*rank, module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode
        if status < 0:  # a killed rank could not report it
            print(f"olmo-inject: rank {rank} was killed by {failure.signal_name()}", file=sys.stderr, flush=True)
        return status if status == USER_ERROR else 1
    except SignalException as error:
        return 128 + (error.sigval.value if isinstance(error.sigval, signal.Signals) else int(error.sigval))
    return 0
