"""Arguments, options and printing that several commands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from olmo_inject.errors import INTERRUPTED, UserError
from olmo_inject.rank_environment import is_first_rank
from olmo_inject.utils.files import json_text
from olmo_inject.utils.options import check_options
from olmo_inject.utils.paths import PATH
from olmo_inject.utils.terminal import Console

if TYPE_CHECKING:
    from olmo_inject.config import Described

F = TypeVar("F", bound=Callable[..., Any])

ConfigArgument = Annotated[
    str, PATH, typer.Argument(help="An experiment: a YAML file, or the name of one in configs/experiments.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Changes as key=value, e.g. model=20M train.optimizer.learning_rate=1e-3.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ProcessesOption = Annotated[
    int | None, typer.Option(help="Ranks on this machine; default one per GPU, else 1.", show_default=False)
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(help="Present location of the run's corpus, if it has moved.", show_default=False),
]
StepsOption = Annotated[
    str,
    typer.Option(help="Checkpoints of each run: last, all, steps and ranges start:stop:every, e.g. 0,100,200:500:50."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
NodesOption = Annotated[int, typer.Option(help="Nodes that each run this command.")]
RendezvousOption = Annotated[
    str | None, typer.Option(help="HOST:PORT where several nodes meet; HOST is one of them.", show_default=False)
]
AtOnceOption = Annotated[
    int | None,
    typer.Option(help="Runs that train at once; default as many as the cores or GPUs hold.", show_default=False),
]

HARDWARE = "Hardware"
AcceleratorOption = Annotated[str, typer.Option(help="A name in the table of accelerators.", rich_help_panel=HARDWARE)]
AcceleratorsOption = Annotated[
    Path | None,
    typer.Option(
        help="Table of accelerators; default configs/accelerators.yaml.", show_default=False, rich_help_panel=HARDWARE
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(help="US dollars per accelerator and hour.", show_default=False, rich_help_panel=HARDWARE),
]
UtilizationOption = Annotated[
    float | None,
    typer.Option(
        help="Fraction of the peak FLOP/s that training reaches; `cost --calibrate` measures it.",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]


def run_begins_at(config: str, experiment: Described) -> int:
    """The step at which the run of an experiment begins; not 0 if it branches off another.

    If the checkpoint of that one is not on this machine it is 0, and a line says so.

    Args:
        config: the file that the experiment was loaded from, which may be a run's.
        experiment: the experiment with the changes of the command line.
    """
    from olmo_inject.config import Experiment
    from olmo_inject.runs.read import run_of
    from olmo_inject.training.checkpoints.on_disk import first_step_of

    if not isinstance(experiment, Experiment) or experiment.start_state != "full":
        return 0
    run = run_of(config)
    if run is not None and getattr(run.experiment, "start_from", None) == experiment.start_from:
        return run.own_steps.start
    try:
        return first_step_of(experiment, None)
    except UserError as error:
        print(f"olmo-inject: counted from step 0: start_from: {error}", file=sys.stderr)
        return 0


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json_text(value))


def table_console() -> Console:
    """A console for tables: as wide as the terminal; in a file, wide enough that every row is one line."""
    return Console(width=None if sys.stdout.isatty() else 1000)


def say_once(message: str) -> None:
    """Print a line on one rank only."""
    if is_first_rank():
        print(message, flush=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the context, end the command with one line and status 130 if Ctrl-C or SIGTERM stopped its runs."""
    from launch.pool import Stopped

    try:
        yield
    except Stopped:
        print("olmo-inject: stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def with_checked_options(command: F) -> F:
    """Wrap a command so that its options are checked before it runs."""

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        check_options(**kwargs)
        return command(*args, **kwargs)

    return cast("F", called)
