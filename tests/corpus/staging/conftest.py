from __future__ import annotations

from pathlib import Path

import pytest
from named import write_named

from olmo_inject.corpus.sources import Source


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    write_named(folder)
    return folder / "root"


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Source, "pause_s", 0.001)
