"""One small run from its stream to its analysis: a change of structure must not change what comes out.

What is drawn from a seed is compared exactly. What is computed in float32 is compared to within `RTOL`, since
processors differ in the last digits. `golden.json` holds the values; after an intended change, the failing test says
where it wrote those that it found: copy that file over `golden.json`, and say in the changelog what moved and why.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ranks import alone
from runs import metrics, train_on_rank, write_experiment

from analysis.figures import style
from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.config import load_experiment
from olmo_inject.data import build_data

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden.json")
RTOL, ATOL = 1e-3, 1e-5  # of results; losses and weights are held to `TRAINED`
TRAINED = 2e-5

EXPERIMENT = """
extends: experiment.yaml
name: golden
folder: {folder}/golden
tasks:
  - {{name: less, kind: comparison, options: {{n_values: 8}}}}
  - {{name: plus, kind: modular_addition, options: {{n_values: 7}}}}
  - {{name: rare, kind: comparison, options: {{n_values: 6}}}}
injections:
  - {{task: less, instances_per_batch: 5/2}}
  - {{task: plus, schedule: burst, instances: 3, every: 3}}
  - {{task: rare, schedule: bernoulli, instances_per_batch: 1/2}}
train:
  global_train_batch_size: 24
  save_data_indices: true
  optimizer: {{learning_rate: 0.02}} # so that accuracies are not all zero
"""
ANALYSES = {
    "behaviour": [],
    "features": ["--components", "4"],
    "patching": ["--pairs", "8"],
    "gradients": ["--neurons", "4"],
}


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_experiment(folder)
    path = folder / "golden.yaml"
    path.write_text(EXPERIMENT.format(folder=folder))
    return path


@pytest.fixture(scope="session")
def golden_run(experiment: Path) -> Path:
    """A run of 12 steps of three tasks, one for each kind of schedule; not to be changed."""
    with alone():
        assert "trained" in train_on_rank(experiment)
    return experiment.parent / "golden"


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<i8")).hexdigest()[:16]


def stream(experiment: Path) -> dict[str, Any]:
    """The rows of some steps, among them step 4 in which an epoch ends, and how many instances are in each of all."""
    data = build_data(load_experiment(experiment))
    size = data.plan.batch_size
    rows = {step: data.corpus.rows(np.arange(size * step, size * step + size))["input_ids"] for step in (0, 3, 4, 11)}
    names = [task.name for task in data.tasks]
    counts = {name: [int((data.plan.at(s).task == i).sum()) for s in range(12)] for i, name in enumerate(names)}
    return {"rows": {str(step): sha256(ids.numpy()) for step, ids in rows.items()}, "instances": counts}


def measured(run: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in metrics(run):
        found.setdefault(line["name"], {})[str(line["step"])] = line["value"]
    return found


def weights(run: Path) -> dict[str, list[float]]:
    """Of each parameter its sum, the sum of its squares, and its first value, after the last step."""
    state = torch.load(run / "step12" / "model.pt", weights_only=True)
    return {name: [float(w.sum()), float(w.square().sum()), float(w.flatten()[0])] for name, w in state.items()}


def audited(run: Path) -> dict[str, Any]:
    audit = audit_run(run, progress=False)
    return {"verdict": audit.verdict, "labels": dict(audit.labels), "checks": dict(audit.checks)}


def tables(method: str, folder: Path, run: Path) -> dict[str, Any]:
    """Of each table that `analyze method` writes a summary of each column, but for the folders."""
    steps = [] if method == "behaviour" else ["--steps", "last" if method == "features" else "8,12"]
    with pytest.raises(SystemExit) as ended:
        main(["analyze", method, str(run), *steps, *ANALYSES[method], "--out", str(folder)])
    assert ended.value.code == 0
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pd.read_parquet(path).drop(columns="folder", errors="ignore")
        found[path.stem] = {name: summary(table[name]) for name in table}
    return found


def summary(column: pd.Series) -> list[Any]:
    """How many values there are, and of numbers their mean with equal weights and with weights that rise by row."""
    values = column.dropna()
    if not pd.api.types.is_numeric_dtype(column):
        return [len(values), hashlib.sha256("\n".join(map(str, column)).encode()).hexdigest()[:16]]
    numbers = values.to_numpy(float)
    means = [float(np.average(numbers, weights=weights)) for weights in (None, values.index + 1)] if len(values) else []
    return [len(values), *means]


def rounded(value: Any) -> Any:
    """As it stands in the file: seven digits are more than a float32 holds."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def differences(found: Any, golden: Any, rtol: float, atol: float, at: str = "") -> list[str]:
    """Where two values of JSON differ, in words; numbers may to within the tolerances, unless both are whole."""
    if isinstance(golden, dict) and isinstance(found, dict) and golden.keys() == found.keys():
        pairs = [(f"{at}/{key}", found[key], golden[key]) for key in golden]
    elif isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        pairs = [(f"{at}/{number}", *pair) for number, pair in enumerate(zip(found, golden, strict=True))]
    elif isinstance(golden, float) and isinstance(found, (int, float)):
        return [] if np.isclose(found, golden, rtol=rtol, atol=atol) else [f"{at}: {found}, not {golden}"]
    else:
        return [] if found == golden else [f"{at}: {found}, not {golden}"]
    return [line for where, mine, theirs in pairs for line in differences(mine, theirs, rtol, atol, where)]


def as_text(golden: dict[str, dict[str, Any]]) -> str:
    """JSON with a line for each value of each part."""
    parts = []
    for name, values in golden.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        parts.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def check(name: str, found: Any, tmp_path: Path, rtol: float = 0.0, atol: float = 0.0) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = rounded(json.loads(json.dumps(found)))
    if wrong := differences(found, golden.get(name), rtol, atol):
        path = tmp_path / "golden.json"
        path.write_text(as_text(golden | {name: found}))
        raise AssertionError("\n".join([f"{name}: {len(wrong)} values differ; found are in {path}", *wrong[:10]]))


def test_the_stream_is_golden(experiment: Path, tmp_path: Path) -> None:
    check("stream", stream(experiment), tmp_path)


def test_what_training_measures_is_golden(golden_run: Path, tmp_path: Path) -> None:
    check("metrics", measured(golden_run), tmp_path, TRAINED, 1e-6)


def test_weights_are_golden(golden_run: Path, tmp_path: Path) -> None:
    check("weights", weights(golden_run), tmp_path, TRAINED, 1e-5)


def test_the_audit_is_golden(golden_run: Path, tmp_path: Path) -> None:
    check("audit", audited(golden_run), tmp_path)


@pytest.mark.parametrize("method", ANALYSES)
def test_analyses_are_golden(method: str, golden_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "save", lambda figure, path: None)  # most of the time; figures have tests of their own
    check(method, tables(method, tmp_path / "tables", golden_run), tmp_path, RTOL, ATOL)
