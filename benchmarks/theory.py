"""Batched training against the plain loop, and a million features: `python -m benchmarks.theory`.

Both ways train the same encoders (seven widths, three seeds, d = 200) for the same steps from the same start, in turns,
in one process on one thread. The smallest CPU time of each counts, since other work slows both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from olmo_inject.theory.checks.speed import SEEDS, WIDTHS, closed_form_seconds, compare_training
from olmo_inject.theory.mixtures.task_mixture import Basis

FLOORS: dict[Basis, float] = {"axis": 5.0, "random": 3.0}


def main(options: Sequence[str] = ()) -> None:
    """Measure and print both; `options` as on the command line of this module, none when all benchmarks run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of every run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the fastest counts")
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    arguments = parser.parse_args(options)

    rows = []
    for basis, floor in FLOORS.items():
        run = compare_training(basis, arguments.steps, arguments.rounds)
        rows.append(
            {
                "what": {"axis": "training, diagonal M", "random": "training, dense M"}[basis],
                "naive_seconds": run.naive,
                "batched_seconds": run.batched,
                "ratio": run.ratio,
                "to_reach": floor,
                "loss_difference": run.difference,
            }
        )
    seconds = min(closed_form_seconds() for _ in range(arguments.rounds))
    document = {
        "widths": WIDTHS,
        "seeds": len(SEEDS),
        "steps": arguments.steps,
        "training": rows,
        "closed_forms_of_1e6_features_seconds": seconds,
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    table = Table("", "naive s", "batched s", "times faster", "to reach", "loss differs by")
    for row in rows:
        numbers = [f"{row[key]:.2f}" for key in ("naive_seconds", "batched_seconds", "ratio")]
        table.add_row(row["what"], *numbers, f"{row['to_reach']:g}", f"{row['loss_difference']:.1e}")
    console = Console()
    console.print(table)
    console.print(f"closed forms of 1,000,000 features: {seconds:.2f} s (to reach: under 1)")


if __name__ == "__main__":
    main(sys.argv[1:])
