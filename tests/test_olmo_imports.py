"""What ai2-olmo imports and no command needs stays out of a process, and is there for whoever uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from olmo_inject.olmo_imports import DEFERRED, Deferred

pytestmark = pytest.mark.slow

HEAVY = {*(name for names in DEFERRED.values() for name in names), "scipy", "sklearn", "torchmetrics", "transformers"}
MODULES = ", ".join(DEFERRED)
USE = """
import pathlib, sys, tempfile, botocore.exceptions
import olmo.eval, olmo.train, olmo.util, olmo_core.distributed.checkpoint as sharded
assert issubclass(olmo.util.datasets.Dataset, object) and olmo.util.boto3.Session().profile_name == "default"
assert olmo.eval.Evaluator.__module__ == "olmo.eval.evaluator"
path = pathlib.Path(tempfile.mkdtemp())
assert sharded.cached_path(str(path)) == path
assert olmo.train.wandb.run is None and "wandb" not in sys.modules
import wandb
wandb.run = object()
assert olmo.train.wandb.run is wandb.run and olmo.train.wandb.Api is wandb.Api
"""


def loaded_by(*parts: str) -> list[set[str]]:
    """Which of the packages a fresh interpreter holds after each part of the code."""
    told = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))\n"
    code = "".join(part + told for part in parts)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [HEAVY & set(json.loads(line)) for line in ended.stdout.splitlines()]


def test_a_run_imports_none_of_it_until_it_is_used() -> None:
    assert loaded_by(f"import olmo_inject.training.run, {MODULES}", USE) == [set(), HEAVY]


def test_a_placeholder_calls_the_real_one_and_no_subclass_does() -> None:
    module = Deferred("fractions")
    fraction = module.Fraction
    assert fraction(1, 2) * 2 == 1
    with pytest.raises(RuntimeError, match=r"^Own: import olmo\.util before olmo_inject to use it$"):
        type("Own", (fraction,), {})()
    module.ready = True
    assert module.Fraction is not fraction
