"""What a run will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from olmo_inject.commands.shared import ConfigArgument, JsonOption, OverridesArgument, print_json

if TYPE_CHECKING:
    from olmo_inject.config import Experiment


def cost(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    accelerator: Annotated[str, typer.Option(help="A name in configs/accelerators.yaml.")] = "h100",
    accelerators: Annotated[
        Path | None, typer.Option(help="Another table of accelerators.", show_default=False)
    ] = None,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option(help="Accelerators of each machine.")] = 1,
    price: Annotated[float | None, typer.Option(help="US dollars an hour for one.", show_default=False)] = None,
    utilization: Annotated[
        float | None, typer.Option(help="Share of the peak FLOP/s that training reaches.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would take: FLOPs, GPU-hours, money, memory of each GPU, disk.

    Utilization and prices are assumptions that stand in configs/accelerators.yaml; replace them by your own.

    Example: `olmo-inject cost demo model=1B --accelerator h100 --nodes 4 --gpus 8`
    """
    from launch.accelerators import find_accelerator
    from launch.cost import estimate
    from launch.cost_report import run_table
    from olmo_inject.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    used = find_accelerator(accelerator, accelerators).with_changes(price, utilization)
    result = estimate(
        experiment,
        used,
        nodes=nodes,
        gpus_per_node=gpus,
        corpus_tokens=_corpus_tokens(experiment),
        first_step=_first_step(experiment),
    )
    if as_json:
        print_json(result.record())
        return
    Console().print(run_table(result))


def _corpus_tokens(experiment: Experiment) -> int | None:
    """How many tokens the corpus holds, where it is a folder that is here."""
    from olmo_inject.corpus.folder import DESCRIPTION, read_corpus_folder

    folder = experiment.corpus.folder
    if folder is None or not (Path(folder) / DESCRIPTION).is_file():
        return None
    return read_corpus_folder(Path(folder)).tokens


def _first_step(experiment: Experiment) -> int:
    """Where a run that branches off begins."""
    if experiment.start_from is None or experiment.start_state != "full":
        return 0
    from olmo_inject.training.checkpoints import read_checkpoint

    return read_checkpoint(Path(experiment.start_from)).step
