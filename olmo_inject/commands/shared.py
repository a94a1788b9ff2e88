"""What several commands share: arguments, and how they print."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo_inject.paths import PATH
from olmo_inject.rank_environment import is_first_rank
from olmo_inject.terminal import Console

INTERRUPTED = 130  # exit status after Ctrl-C or SIGTERM, as a shell's

ConfigArgument = Annotated[
    str, PATH, typer.Argument(help="An experiment: a YAML file, or the name of one in configs/experiments.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Changes as key=value, e.g. model=20M train.optimizer.learning_rate=1e-3.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

NprocOption = Annotated[
    int | None, typer.Option(help="Ranks on this machine; default one per GPU, or one.", show_default=False)
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(help="Where the corpus of the run is now, if it has moved.", show_default=False),
]
StepsOption = Annotated[
    str, typer.Option(help="Checkpoints of each run: last, all, steps and ranges, e.g. 0,100,200:500:50 or 400:.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
NodesOption = Annotated[int, typer.Option(help="Nodes that each run this command.")]
RendezvousOption = Annotated[
    str | None, typer.Option(help="HOST:PORT where several nodes meet; HOST is one of them.", show_default=False)
]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2))


def table_console() -> Console:
    """For tables: as wide as the terminal; elsewhere as wide as they are, so that a row is a line with whole names."""
    return Console(width=None if sys.stdout.isatty() else 1000)


def say_once(message: str) -> None:
    """A line that one rank prints for all."""
    if is_first_rank():
        print(message, flush=True)


def available_cores() -> int:
    """Processor cores that this process may use, which in a container or a SLURM job are not all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
