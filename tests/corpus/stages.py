"""Stages of a small named corpus, and their comparison with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from named import BATCH, LENGTH, NAMES

from olmo_inject.corpus.order import Order
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import open_source
from olmo_inject.corpus.staged import StagedShards, StageOrder, read_stage
from olmo_inject.corpus.staging import open_stager
from olmo_inject.corpus.verify import damaged, recorded_files
from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary

VOCABULARY = Vocabulary.without_tokenizer(50280, 50279, 1)
SEED = 7


def opened(root: Path, batch: int = BATCH) -> tuple[TokenShards, Order]:
    shards = TokenShards([root / name for name in NAMES], LENGTH, vocab_size=50280)
    return shards, Order(len(shards), batch, SEED)


def remote(url: str) -> RemoteShards:
    source = open_source(url)
    sizes = source.sizes(NAMES)
    return RemoteShards(source, NAMES, [sizes[name] for name in NAMES], LENGTH, vocab_size=50280)


def stage(shards: TokenShards, order: Order, steps: range, to: Path, **more: Any) -> None:
    done: list[int] = []
    stager = open_stager(shards, order, VOCABULARY, steps, to, **{"file_bytes": 10 * 2 * LENGTH, **more})
    stager.check_disk()
    assert stager.run(done.append)
    assert sum(done) == stager.work_bytes, "the bar ends at its end"
    assert not list(to.glob(".*")), "nothing is left over"


def check_same(to: Path, shards: TokenShards, order: Order, rows: list[int] | None = None) -> None:
    """Every position of the stage against the source; and that there is no other."""
    record = read_stage(to)
    staged = StagedShards(record, LENGTH, 50280)
    places = StageOrder(record, order.batch_size, SEED)
    steps = np.arange(record.first_step, record.beyond_step)
    positions = (steps[:, None] * order.batch_size + np.array(rows or range(order.batch_size))).ravel()
    assert len(staged) == len(positions) == len(set(places[positions].tolist()))
    np.testing.assert_array_equal(staged.read(places[positions]), shards.read(order[positions]))
    assert staged.fingerprint() == shards.fingerprint()
    assert damaged(recorded_files(to), lambda n: None) == []
    for outside in (record.first_step * order.batch_size - 1, record.beyond_step * order.batch_size):
        with pytest.raises(UserError, match=f"holds steps {record.first_step} to {record.beyond_step - 1}, not step"):
            places[np.array([outside])]


def contents(to: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in to.iterdir()}
