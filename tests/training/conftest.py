from __future__ import annotations

from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four processes for jobs on 1 to 4 ranks; they start once."""
    pool = Ranks()
    yield pool
    pool.close()
