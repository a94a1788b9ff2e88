from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of two nodes, which the tests share."""
    here = Cluster(tmp_path_factory.mktemp("slurm"))
    yield here
    here.stop()


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands like SLURM's, of which `squeue` prints this file."""
    file = tmp_path / "queue"
    file.write_text("")
    for name, body in (("sbatch", "echo 17"), ("squeue", f"cat '{file}'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return file
