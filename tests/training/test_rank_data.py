"""What the ranks of a run ask of shared files: one looks at them all, the others at what they read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from ranks import Ranks
from runs import into, train_on_rank

from olmo_inject.audit import audit_run
from olmo_inject.config import load_experiment
from olmo_inject.corpus import kinds, order
from olmo_inject.runs.read import read_plan
from olmo_inject.training.rank_data import open_data, prepare_order


def _opened(path: Path) -> tuple[list[str], list[str], int, int]:
    """The shards that a rank opens until it has its data, those of the first row after that, its shuffles and checks.

    A check reads a stored shuffle whole.
    """
    opened: list[str] = []
    sys.addaudithook(lambda event, about: opened.append(str(about[0])) if event == "open" else None)
    kinds.SHARED_FROM = 1
    shuffled, checked = [], []
    plain, mapped = order.Order._shuffle, order.mapped
    order.mapped = lambda path, dtype: (checked.append(path) if dtype == np.uint8 else None, mapped(path, dtype))[1]
    order.Order._shuffle = lambda self, epoch: (shuffled.append(epoch), plain(self, epoch))[1]  # type: ignore[method-assign]
    try:
        data = open_data(load_experiment(path))
        before = [Path(name).name for name in opened if name.endswith(".npy")]
        prepare_order(data)
        data.corpus.rows(np.array([dist.get_rank()]))
        after = [Path(name).name for name in opened if name.endswith(".npy")][len(before) :]
        return sorted(set(before)), after, len(shuffled), len(checked)
    finally:
        kinds.SHARED_FROM = order.SHARED_FROM
        order.Order._shuffle = plain  # type: ignore[method-assign]
        order.mapped = mapped


def test_one_rank_looks_at_the_corpus_and_shuffles(
    path: Path, tmp_path: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = path.read_text().replace(f"folder: {path.parent}/run", f"folder: {tmp_path}/run")
    (tmp_path / "experiment.yaml").write_text(text)
    found = ranks.run(3, _opened_with_cache, tmp_path / "experiment.yaml", tmp_path / "cache")
    assert found[0][0] == ["part-0.npy", "part-1.npy"]
    assert [before for before, *_ in found[1:]] == [[], []]
    assert all(len(after) == 1 for _, after, *_ in found[1:]), "the shard of its row"
    assert [counts for _, _, *counts in found] == [[2, 2], [0, 0], [0, 0]], "two epochs, on rank 0"


def _opened_with_cache(path: Path, cache: Path) -> tuple[list[str], list[str], int, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLMO_INJECT_CACHE", str(cache))
        return _opened(path)


@pytest.mark.slow
def test_the_lists_of_positions_are_cut_back_by_all_ranks_together(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    changes = into(run, "train.save_data_indices=true")
    ranks.run(3, train_on_rank, path, *changes, "train.max_duration=4")
    for file in (run / "data-indices").glob("*.tsv"):
        with file.open("a") as lines:
            lines.write("5\t48\n6\t60")  # what a kill leaves after the last checkpoint
    ranks.run(2, train_on_rank, path, *changes, "train.max_duration=8")
    names = [f"rank{rank}-of-{world}.tsv" for world in (2, 3) for rank in range(world)]
    assert sorted(file.name for file in (run / "data-indices").iterdir()) == sorted(names)
    audit = audit_run(run, progress=False)
    assert audit.passed, audit.differences
    assert audit.checks["data-indices"] > 8


@pytest.mark.slow
def test_lists_of_positions_may_begin_on_a_resume(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, *into(run), "train.max_duration=4")
    ranks.run(1, train_on_rank, path, *into(run, "train.save_data_indices=true"), "train.max_duration=8")
    assert read_plan(run)["indices_from"] == 4
    assert audit_run(run, progress=False).differences == []
    lists = run / "data-indices" / "rank0-of-1.tsv"
    lists.write_text("".join(lists.read_text().splitlines(keepends=True)[1:]))
    audit = audit_run(run, progress=False)
    assert audit.differences == ["data-indices: positions missing in 1 step"]
    assert audit.verdict == "1 difference"
