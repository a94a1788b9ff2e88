from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of two nodes, which the tests share."""
    here = Cluster(tmp_path_factory.mktemp("slurm"))
    yield here
    here.stop()
