"""`olmo-inject theory validate`: the acceptance checks."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from olmo_inject.progress import show_progress
from olmo_inject.theory.checks.measure import Effort, Measure

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems and fewer steps.")]


def validate(quick: Quick = False, as_json: AsJson = False) -> None:
    """Run the acceptance checks of the theory; exit status 1 if one fails."""
    import torch

    from olmo_inject.theory.checks.registry import CHECKS

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if quick else threads)  # small products lose more to threads than they gain
    started = time.perf_counter()
    rows: list[tuple[str, Measure]] = []
    with show_progress("validating", len(CHECKS), "checks") as meter:
        for done, (title, check) in enumerate(CHECKS.values()):
            for measure in check(Effort(quick)):
                rows.append((title, measure))
                meter.update(done, f"{title}: {measure.what}")
            meter.update(done + 1)
    torch.set_num_threads(threads)
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
