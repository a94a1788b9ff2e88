from __future__ import annotations

from pathlib import Path

import pytest
from copies import Copies
from ranks import alone
from runs import train_on_rank, write_experiment


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with a comparison, evenly, and an addition, in bursts; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    with alone():
        assert "trained" in train_on_rank(write_experiment(folder))
    return folder / "run"


@pytest.fixture
def copies(trained: Path, tmp_path: Path) -> Copies:
    return Copies(trained, tmp_path / "copies")
