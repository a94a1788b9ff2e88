"""`olmo-inject theory figures`: the synthetic figures of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from olmo_inject.theory.checks.measure import Effort
from olmo_inject.theory.commands.checking import Quick


def figures(to: Annotated[Path, typer.Option(help="Folder for the pictures.")], quick: Quick = False) -> None:
    """Draw the theory's figures from closed forms and fresh training runs."""
    from olmo_inject.theory.drawing.figures import FIGURES
    from olmo_inject.theory.drawing.save import save_all

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        for name, draw in FIGURES.items():
            shown = progress.add_task(name, total=None)
            paths = save_all(draw(Effort(quick)), to, name)
            progress.remove_task(shown)
            print(*paths, sep="\n")
