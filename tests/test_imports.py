"""What a command imports, in a fresh interpreter: a package that it does not compute with costs its user seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import alone
from runs import train_on_rank, write_experiment

pytestmark = pytest.mark.slow

HEAVY = {
    *("torch", "olmo", "olmo_core", "transformers", "datasets", "wandb", "torchmetrics", "sklearn", "matplotlib"),
    *("scipy", "pandas", "pyarrow", "boto3", "requests", "numpy", "omegaconf", "tokenizers", "sympy"),
}
READS_CONFIG = {"numpy", "omegaconf", "tokenizers"}
USED = """
import json, sys
from olmo_inject.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps and its experiment."""
    folder = tmp_path_factory.mktemp("imports")
    with alone():
        assert "trained" in train_on_rank(write_experiment(folder), "train.max_duration=2")
    return folder


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        (["--help"], set()),
        (["train", "--help"], set()),
        (["theory", "--help"], set()),
        (["plan", "EXPERIMENT"], READS_CONFIG | {"pyarrow"}),
        (["corpus", "show", "EXPERIMENT", "--step", "0"], READS_CONFIG),
        (["audit", "RUN"], READS_CONFIG | {"torch", "sympy"}),  # the rows that it compares are torch's
        (["theory", "predict", "docs/predict.yaml"], {"numpy", "omegaconf", "pandas", "pyarrow", "scipy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_no_more_than_it_computes_with(folder: Path, command: list[str], imported: set[str]) -> None:
    places = {"EXPERIMENT": str(folder / "experiment.yaml"), "RUN": str(folder / "run")}
    arguments = [places.get(argument, argument) for argument in command]
    ended = subprocess.run(
        [sys.executable, "-c", USED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert ended.returncode == 0, ended.stderr
    assert HEAVY & set(json.loads(ended.stdout.splitlines()[-1])) <= imported
