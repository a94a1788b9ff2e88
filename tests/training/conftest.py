from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import Ranks
from runs import train_on_rank, write_experiment


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four processes for jobs on 1 to 4 ranks; they start once."""
    pool = Ranks()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def finished(path: Path, ranks: Ranks) -> Path:
    """A run of 12 steps on one rank, never interrupted; not to be changed."""
    assert "trained to step 12" in ranks.run(1, train_on_rank, path)[0]
    return path.parent / "run"
