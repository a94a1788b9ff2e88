"""`olmo-inject theory validate`: the acceptance checks."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.utils.files import json_text
from olmo_inject.utils.progress import show_progress
from olmo_inject.utils.terminal import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems and fewer steps.")]


def validate(quick: Quick = False, as_json: AsJson = False) -> None:
    """Run the acceptance checks of the theory; exit status 1 if one fails.

    Example: `olmo-inject theory validate --quick`
    """
    import torch

    from olmo_inject.theory.checks.registry import CHECKS

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if quick else threads)  # small products lose more to threads than they gain
    started = time.perf_counter()
    rows: list[tuple[str, AcceptanceMeasure]] = []
    # Without --json every measure is a line of its own, which shows the progress.
    with show_progress("validating", len(CHECKS), "checks", enabled=as_json) as meter:
        for number, (title, check) in CHECKS.items():
            if not as_json:
                Console().print(f"{number} {title}", style="bold")
            for measure in check(Effort(quick)):
                rows.append((title, measure))
                meter.update(meter.done, f"{title}: {measure.what}")
                if not as_json:
                    Console().print(_verdict(measure), soft_wrap=True)
            meter.advance()
    torch.set_num_threads(threads)
    seconds = time.perf_counter() - started
    passed = all(measure.passed for _, measure in rows)
    if as_json:
        print(json_text(_document(rows, passed, quick, seconds)))
    else:
        failed = sum(not measure.passed for _, measure in rows)
        verdict = "all passed" if passed else f"{failed} FAILED"
        Console().print(f"{len(rows)} measures, {verdict}, in {seconds:.0f} s")
    if not passed:
        raise typer.Exit(1)


def _document(rows: list[tuple[str, AcceptanceMeasure]], passed: bool, quick: bool, seconds: float) -> dict[str, Any]:
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
    return {"passed": passed, "quick": quick, "seconds": seconds, "measures": measures}


def _verdict(measure: AcceptanceMeasure) -> Text:
    verdict = ("pass", "green") if measure.passed else ("FAIL", "bold red")
    allowed = f"{measure.relation} {measure.tolerance:.6g}"
    return Text.assemble("  ", verdict, f"  {measure.what}: {measure.value:.4g} (allowed {allowed})")
