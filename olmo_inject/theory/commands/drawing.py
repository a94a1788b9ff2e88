"""`olmo-inject theory figures`: the synthetic figures of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.theory.commands.checking import Quick
from olmo_inject.utils.progress import show_progress


def figures(
    out: Annotated[Path, typer.Option(help="Folder for the figures, each as PNG, SVG and PDF.")],
    config: Annotated[Path | None, typer.Option(help="Another mixture, widths and gaps, as YAML.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Draw only this figure; may be given again.")] = None,
    quick: Quick = False,
) -> None:
    """Draw the study's synthetic figures from closed forms and fresh training runs, with bands over seeds.

    Example: `olmo-inject theory figures --out figures --only regimes --quick`
    """
    from olmo_inject.theory.arguments import choice
    from olmo_inject.theory.drawing.figures import FIGURES
    from olmo_inject.theory.drawing.save import save_all
    from olmo_inject.theory.drawing.scene import load_scene
    from olmo_inject.utils.owned_folder import check_writable

    for name in only or ():
        choice("--only", name, tuple(FIGURES))
    scene = load_scene(config, quick)
    check_writable(out)
    names = only or list(FIGURES)
    with show_progress("drawing", len(names), "figures") as meter:
        for done, name in enumerate(names):
            meter.update(done, name)
            paths = save_all(FIGURES[name](scene), out, name)
            meter.update(done + 1)
            print(*paths, sep="\n")
