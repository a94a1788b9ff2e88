"""`olmo-inject theory`: validate, figures, predict."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from olmo_inject.theory.checks.measure import Effort, Measure
from olmo_inject.theory.prediction import tables
from olmo_inject.theory.prediction.config import configured_mixture, load_predict_config
from olmo_inject.theory.prediction.predict import predict

app = typer.Typer(
    help="Which task a model of which width holds: multi-task linear regression, in closed form.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems and fewer steps.")]


@app.command()
def validate(quick: Quick = False, as_json: AsJson = False) -> None:
    """Run the acceptance checks of the theory; exit status 1 if one fails."""
    from olmo_inject.theory.checks.registry import CHECKS

    started = time.perf_counter()
    rows: list[tuple[str, Measure]] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for number, (title, check) in CHECKS.items():
            shown = progress.add_task(f"{number}/{len(CHECKS)} {title}", total=None)
            for measure in check(Effort(quick)):
                rows.append((title, measure))
                progress.update(shown, description=f"{number}/{len(CHECKS)} {title}: {measure.what}")
            progress.remove_task(shown)
    seconds = time.perf_counter() - started
    passed = all(measure.passed for _, measure in rows)
    if as_json:
        measures = [
            {
                "check": measure.check,
                "title": title,
                "what": measure.what,
                "value": float(measure.value),
                "relation": measure.relation,
                "tolerance": measure.tolerance,
                "passed": measure.passed,
            }
            for title, measure in rows
        ]
        document = {"passed": passed, "quick": quick, "seconds": seconds, "measures": measures}
        print(json.dumps(document, indent=2))
    else:
        Console().print(_verdicts(rows), f"{'all passed' if passed else 'FAILED'} in {seconds:.0f} s")
    if not passed:
        raise typer.Exit(1)


@app.command()
def figures(to: Annotated[Path, typer.Option(help="Folder for the pictures.")], quick: Quick = False) -> None:
    """Draw the theory's figures from closed forms and fresh training runs."""
    from olmo_inject.theory.drawing.figures import FIGURES, save

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        for name, draw in FIGURES.items():
            shown = progress.add_task(name, total=None)
            path = save(draw(Effort(quick)), to / f"{name}.png")
            progress.remove_task(shown)
            print(path)


@app.command("predict")
def predict_command(
    config: Annotated[Path, typer.Argument(help="Frequencies and spectra; or a plan's JSON; or an experiment.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value over the files.")] = None,
    spectra: Annotated[Path | None, typer.Option(help="What a plan or experiment leaves out: spectra, corpus.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which tasks are held at which width and gap, before any GPU is spent."""
    settings = load_predict_config(config, spectra, overrides or ())
    prediction = predict(
        configured_mixture(settings),
        settings.widths,
        settings.gaps,
        settings.step_size,
        settings.frequent_mass,
        settings.residual_share,
    )
    if as_json:
        print(json.dumps(prediction.as_json(), indent=2))
        return
    console = Console()
    for titled in (tables.held_shares, tables.critical_widths, tables.gap_statements):
        console.print(*titled(prediction), sep="\n")
    if prediction.tied.any():
        edges = ", ".join(str(width) for width in prediction.widths[prediction.tied])
        console.print(f"At N = {edges} two utilities tie: which of them is held is not determined.")
    frequent = [prediction.mixture.names[k] for k in prediction.frequent]
    console.print(
        f"Frequent tasks, {len(frequent)} of {prediction.mixture.tasks}: {', '.join(frequent)}. "
        f"Width {prediction.residual_width} explains all but {settings.residual_share:.0%} of them."
    )
    console.print("~ beyond 2 eta T nu = 1 a burst is a large step, and this is growth from nothing alone.")
    console.print("learned: grows from nothing. kept: stays once learned. oscillates: learned in part.")


def _verdicts(rows: list[tuple[str, Measure]]) -> Table:
    table = Table("check", "measured", "value", "allowed", "verdict")
    for i, (title, measure) in enumerate(rows):
        first = i == 0 or rows[i - 1][1].check != measure.check
        last = i + 1 == len(rows) or rows[i + 1][1].check != measure.check
        table.add_row(
            f"{measure.check} {title}" if first else "",
            measure.what,
            f"{measure.value:.4g}",
            f"{measure.relation} {measure.tolerance:.6g}",
            "[green]pass[/]" if measure.passed else "[bold red]FAIL[/]",
            end_section=last,
        )
    return table
