"""`olmo-inject plan|train|audit`: one run from its plan to its audit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olmo_inject.commands.shared import (
    ConfigArgument,
    CorpusOption,
    DeviceOption,
    JsonOption,
    NodesOption,
    OverridesArgument,
    ProcessesOption,
    RendezvousOption,
    print_json,
    run_begins_at,
    say_once,
    table_console,
)
from olmo_inject.commands.spreading import Spread, jobs_folder, spreads
from olmo_inject.errors import UserError
from olmo_inject.rank_environment import is_rank
from olmo_inject.utils.parts_of_work import Item
from olmo_inject.utils.terminal import Console

if TYPE_CHECKING:
    from olmo_inject.config import Experiment


def plan(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    step: Annotated[int | None, typer.Option(help="Show the injections of this step, row by row.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write every injection of the run to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an experiment injects, in all units, before anything is trained.

    Example: `olmo-inject plan demo --step 313`
    """
    from olmo_inject.config import load_described
    from olmo_inject.corpus.references import load_references
    from olmo_inject.data import build_plan
    from olmo_inject.inspect import plan
    from olmo_inject.inspect.summary import plan_summary
    from olmo_inject.runs.read import saved_tasks
    from olmo_inject.utils.output_file import PARQUET, check_output

    if parquet is not None:
        check_output(parquet, PARQUET, "--parquet")
    experiment = load_described(config, overrides or ())
    what = build_plan(experiment, saved_tasks(config, experiment))
    load_references(experiment.reference_paths, what.source.vocabulary, experiment.sequence_length)
    if step is not None and not 0 <= step < experiment.steps:
        raise UserError(f"--step: {step} is not in 0..{experiment.steps - 1}")
    begun = run_begins_at(config, experiment)
    if parquet is not None:
        plan.write_parquet(experiment, what, parquet, begun)
        print(f"wrote every injection of the run to {parquet}", file=sys.stderr)
    if as_json:
        print_json(plan.step_record(what, step) if step is not None else plan_summary(experiment, what, begun))
    elif step is not None:
        plan.print_step(what, step, Console())
    else:
        plan.print_plan(experiment, what, Console(), begun)


def train(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    nodes: NodesOption = 1,
    rendezvous: RendezvousOption = None,
) -> None:
    """Train a run. The same command resumes it from the last checkpoint.

    The command starts its ranks with torchrun's agent, or is the only rank. On several nodes run it once on each:
    `srun --ntasks-per-node=1 olmo-inject train CONFIG --processes 8 --nodes 4 --rendezvous node1:29500`.
    Under torchrun it is one of the ranks: `torchrun --nproc-per-node 8 -m olmo_inject train CONFIG`.

    To stop a run with a checkpoint, create the file `stop` in its folder, or send SIGTERM.

    Example: `olmo-inject train my.yaml folder=runs/wider model=tiny-64`
    """
    from launch.torchrun import be_the_only_rank, check_launch, default_processes, run_ranks
    from olmo_inject.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    if is_rank():
        from olmo_inject.training.run import train_as_rank

        ending = train_as_rank(experiment, overwrite=overwrite, device=device)
        say_once(f"{experiment.name}: {ending}")
        return
    from olmo_inject.runs.read import is_run
    from olmo_inject.tasks.registry import is_own_code

    ranks = default_processes() if processes is None else processes
    check_launch(nodes, rendezvous)
    if is_run(experiment.run_folder) and not overwrite:
        for task in (task for task in experiment.tasks if is_own_code(task.kind)):
            say_once(f"task {task.name}: resuming runs the code in {Path(task.kind.rpartition(':')[0]).resolve()}")
    # Of several nodes rank 0 alone checks, since each node's command would look at every file of the corpus.
    if nodes == 1 and _is_done(experiment, nodes * ranks, device, overwrite):
        return
    if nodes * ranks == 1:
        from olmo_inject.training.run import train_as_rank

        be_the_only_rank()
        received: list[int] = []
        ending = train_as_rank(experiment, overwrite=overwrite, device=device, received=received)
        say_once(f"{experiment.name}: {ending}")
        raise typer.Exit(128 + received[0] if received else 0)
    arguments = [
        "train",
        config,
        *(overrides or ()),
        "--device",
        device,
        *(["--overwrite"] if overwrite else []),
    ]
    raise typer.Exit(run_ranks("olmo_inject", arguments, ranks, nodes=nodes, rendezvous=rendezvous))


def _is_done(experiment: Experiment, ranks: int, device: str, overwrite: bool) -> bool:
    """Check the run before its launch. If nothing needs to be started, record changed settings and say so."""
    from olmo_inject.training.checks import check_before_launch, record_changes
    from olmo_inject.training.leftovers import tidy_finished

    data, done = check_before_launch(experiment, ranks, device, overwrite)
    if done is None:
        return False
    record_changes(experiment, data)
    tidy_finished(experiment)
    say_once(f"{experiment.name}: {done}")
    return True


@spreads
def audit(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of runs.")],
    corpus: CorpusOption = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Recompute every step's inputs and compare them with what the model received.

    Exit status 1 if anything differs. Verdicts of jobs count as long as the run's files stay as they were.

    Example: `olmo-inject audit runs/my-first`
    """
    from olmo_inject.audit import Audit, audit_run, print_audits, save_audit, what_is_audited
    from olmo_inject.runs.read import expand

    def compute(folders: list[Path]) -> Iterator[dict[str, Any]]:
        return (audit_run(run, progress=not as_json, corpus=corpus).record() for run in folders)

    items = [Item(run, run.name, what_is_audited(run, corpus)) for run in expand(runs)]
    results = spread.results(items, compute, "run", jobs_folder(runs), "audit")
    audits = [Audit.from_record(record) for record in results]
    spread.end_of_part()
    if as_json:
        print_json([result.record() for result in audits])
    else:
        print_audits(audits, table_console())
    for result in audits:
        try:
            save_audit(result)
        except UserError as error:  # the folder is read-only; the verdict is printed anyway
            print(f"olmo-inject: the verdict was not saved: {error}", file=sys.stderr)
    if not all(result.passed for result in audits):
        raise typer.Exit(1)
