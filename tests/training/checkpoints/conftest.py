from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from saved import straight


@pytest.fixture(scope="session")
def runs(ranks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict, dict]]:
    """A run of each kind, saved at 2 ranks, for the tests that only read."""
    made = {}
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(strategy)
        made[strategy] = (folder, *ranks.run(2, straight, folder, strategy)[0])
    return made


@pytest.fixture
def copy(runs, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the full checkpoint of a strategy, to damage."""

    def make(strategy: str) -> Path:
        subprocess.run(["cp", "-r", runs[strategy][0] / "step3", tmp_path / "step3"], check=True)
        return tmp_path / "step3"

    return make
