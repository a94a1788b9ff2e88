"""What proves a GPU in ten minutes and what simulates 1,024 ranks, at tiny sizes on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu, scale
from olmo_inject.errors import UserError


@pytest.mark.slow
def test_what_measures_a_card_measures_a_cpu() -> None:
    found = gpu.measure("cpu", 3600, tests=False)  # a shared machine may be slow
    rows = found["training"]
    assert [(row["model"], row["injected"], row["compiled"]) for row in rows] == [
        (case.model, case.injected, case.compiled) for case in gpu.ON["cpu"].cases
    ]
    assert not [row["error"] for row in rows if "error" in row]
    assert all(0 < row["mfu"] < 1 and 0 < row["loader_share"] < 1 for row in rows)
    assert all(row["estimated_memory"] > 0 for row in rows)
    names = ["scores", "features", "patching", "gradients", "das"]
    assert [row["method"] for row in found["analyses"]] == names
    assert found["left_out"] == []
    page = gpu.page(found)
    assert page.count("\n| tiny-8 |") == 4
    assert "Left out for want of time: nothing." in page


def test_what_does_not_fit_into_the_budget_is_named() -> None:
    found = gpu.measure("cpu", 0.0, tests=False)
    assert found["training"] == found["analyses"] == []
    assert found["left_out"][0] == "tiny-8 of 2 rows"
    assert "analysis das" in found["left_out"]
    assert "tiny-8 of 2 rows; " in gpu.page(found)


@pytest.mark.slow
def test_a_rank_of_1024_holds_little_and_opens_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    scale._write_corpus(tmp_path, 2**20)
    first, other = (scale.as_rank(tmp_path, rank) for rank in scale.ROLES.values())
    assert first["order"] == other["order"] > 4 * 2**20
    assert first["handles"] > 200, "the sample, and a row of each batch"
    assert other["handles"] - first["handles"] < 100, "a row of each batch, some read ahead; not the sample again"
    assert other["memory"] < 100e6
    assert other["evidence"] < 200


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="is not one of auto, cpu, cuda"):
        gpu.measure("tpu")
