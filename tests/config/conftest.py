from __future__ import annotations

from pathlib import Path

import pytest
from written import BASE


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path
