"""YAML that is nested beyond what a parser's recursion survives."""

from __future__ import annotations

from pathlib import Path

import yaml

from olmo_inject.errors import UserError

DEEPEST = 100  # an experiment is nested less than ten deep


def check_nesting(text: str, path: Path) -> None:
    """Refuse YAML that is nested too deeply, or is none, without building it.

    Raises:
        UserError: naming the file.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{path}: is nested more than {DEEPEST} deep")
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())[:200]}") from None
