"""`olmo-inject corpus export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo_inject.commands.shared import ConfigArgument, JsonOption, OverridesArgument, print_json


def export(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    *,
    steps: Annotated[str, typer.Option(help="Steps start:stop, e.g. 0:1000; stop is not included.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be empty or not be there.")],
    as_json: JsonOption = False,
) -> None:
    """Write the injected stream of some steps to files, for a trainer that reads files; `audit` checks them.

    Rows follow each other in the order of training, raw arrays of uint16 or uint32 without a header: read them in
    order, with sequences of the experiment's length. Megatron's .bin/.idx are not written.

    Example: `olmo-inject corpus export my.yaml --steps 0:1000 --out /scratch/stream`
    """
    from olmo_inject.config import load_described
    from olmo_inject.data import build_data
    from olmo_inject.runs.export import check_new_or_empty, export_stream
    from olmo_inject.runs.read import saved_tasks
    from olmo_inject.steps import consecutive_steps
    from olmo_inject.utils.words import counted

    chosen = consecutive_steps(steps)
    check_new_or_empty(out)
    experiment = load_described(config, overrides or ())
    data = build_data(experiment, tasks=saved_tasks(config, experiment))
    written = export_stream(experiment, data, chosen, out)
    if as_json:
        print_json({"folder": str(out), "steps": len(written.steps), "dtype": written.dtype, "files": written.files})
    else:
        rows = len(written.steps) * written.batch_size
        files = counted(len(written.files), "file")
        print(f"{out}: {rows:,} rows of {written.sequence_length} {written.dtype} ids in {files}")
