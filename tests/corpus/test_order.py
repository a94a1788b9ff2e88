"""The order of training is ai2-olmo's, bit for bit, in every epoch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from olmo.data import IterableDataset

from olmo_inject.corpus import order as orders
from olmo_inject.corpus.order import Order
from olmo_inject.errors import UserError


def theirs(n: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """ai2-olmo's own indices of an epoch, cut to whole batches as its loader does."""
    indices = IterableDataset(
        range(n),  # type: ignore[arg-type]
        batch_size,
        seed=seed,
        epoch=epoch,
        drop_last=True,
        world_size=1,
        rank=0,
        fs_local_rank=0,
    ).get_global_indices()
    return indices[: n // batch_size * batch_size]


def held(path: Path) -> int:
    """The positions that a stored shuffle holds, before its two checksums."""
    return (path.stat().st_size - 64) // 4


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 10**6))
@example(1, 1, 0)
@example(1000, 1000, 6198)
def test_epochs_are_ai2_olmos(n: int, batch_size: int, seed: int) -> None:
    if n < batch_size:
        with pytest.raises(UserError, match=f"{n} sequences do not fill one batch of {batch_size}"):
            Order(n, batch_size, seed)
        return
    order = Order(n, batch_size, seed)
    assert order.epoch_length == n // batch_size * batch_size
    expected = np.concatenate([theirs(n, batch_size, seed, epoch) for epoch in range(4)])
    np.testing.assert_array_equal(order[np.arange(4 * order.epoch_length)], expected)


@given(st.permutations(range(60)))
def test_positions_may_be_asked_in_any_order(positions: list[int]) -> None:
    """A user's own sampler may mix epochs; 23 sequences in batches of 4 make epochs of 20 positions."""
    straight = Order(23, 4, 6198)[np.arange(60)]
    order = pickle.loads(pickle.dumps(Order(23, 4, 6198)))
    np.testing.assert_array_equal(order[np.array(positions)], straight[positions])
    for position in positions:
        assert order[np.array([position])] == straight[position]
    assert order[np.empty(0, np.int64)].shape == (0,)


def test_golden_order() -> None:
    """The first sequences of OLMo's seed in a corpus of a million: they decide what every run reads."""
    assert Order(10**6, 1024, 6198)[np.arange(6)].tolist() == [896398, 797198, 937343, 811700, 994647, 26449]


STORED_AT_ONCE = orders.STORED_AT_ONCE


def test_a_file_of_50_000_steps_holds_the_batch_after_them() -> None:
    assert STORED_AT_ONCE >= 50_001 * 1024


@pytest.fixture(autouse=True)
def _only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "STORED_AT_ONCE", 1)


@pytest.mark.parametrize("n_positions", [1, 19, 20, 21, 40, 57])
def test_prepared_files_hold_the_same_order(n_positions: int, tmp_path: Path) -> None:
    order = Order(23, 4, 7, tmp_path)
    order.prepare(n_positions)
    assert sum(map(held, tmp_path.glob("*.u32"))) == n_positions, "of the last epoch only its beginning"
    expected = Order(23, 4, 7)[np.arange(n_positions)]
    for each in (order, pickle.loads(pickle.dumps(order))):
        np.testing.assert_array_equal(each[np.arange(n_positions)], expected)


def test_only_the_epochs_asked_for_are_prepared(tmp_path: Path) -> None:
    order = Order(23, 4, 7, tmp_path)
    order.prepare(45, 41)
    assert {path.name: held(path) for path in tmp_path.glob("*.u32")} == {"epoch2-n23-seed7.u32": 5}
    np.testing.assert_array_equal(order[np.arange(41, 45)], Order(23, 4, 7)[np.arange(41, 45)])


def test_prepared_files_are_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Order(23, 4, 7)[np.arange(40)]
    Order(23, 4, 7, tmp_path).prepare(40)
    monkeypatch.setattr(Order, "_shuffle", lambda self, epoch: pytest.fail("it is stored"))
    np.testing.assert_array_equal(Order(23, 4, 7, tmp_path)[np.arange(40)], expected)


@pytest.mark.parametrize("place", [0, 40, 79, 80 + 32, 80 + 63])
def test_a_damaged_file_is_noticed(place: int, tmp_path: Path) -> None:
    """Any bit of the 20 positions or of their checksum, whether the file is prepared or only read."""
    Order(23, 4, 7, tmp_path).prepare(20)
    (path,) = tmp_path.glob("*.u32")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for use in (lambda order: order.prepare(20), lambda order: order[np.arange(3)]):
        with pytest.raises(UserError, match=rf"^corpus: {path} is damaged: .*; delete it$"):
            use(Order(23, 4, 7, tmp_path))
    assert path.read_bytes() == content
    path.unlink()
    Order(23, 4, 7, tmp_path).prepare(20)
    np.testing.assert_array_equal(Order(23, 4, 7, tmp_path)[np.arange(20)], Order(23, 4, 7)[np.arange(20)])


@pytest.mark.parametrize("other", ["seed", "numpy", "sums", "part", "empty"])
def test_a_file_of_another_order_is_not_read(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another seed, of a numpy that shuffles otherwise, without checksums, or cut short: it is replaced."""
    with monkeypatch.context() as patch:
        if other == "numpy":
            plain = orders._shuffled
            patch.setattr(orders, "_shuffled", lambda n, seed: plain(n, seed)[::-1].copy())
        Order(23, 4, 8 if other == "seed" else 7, tmp_path).prepare(20)
    (path,) = tmp_path.glob("*.u32")
    path = path.rename(tmp_path / "epoch0-n23-seed7.u32")
    content = path.read_bytes()
    path.write_bytes({"sums": content[:80], "part": content[:100], "empty": b""}.get(other, content))
    expected = Order(23, 4, 7)[np.arange(20)]
    np.testing.assert_array_equal(Order(23, 4, 7, tmp_path)[np.arange(20)], expected)
    Order(23, 4, 7, tmp_path).prepare(20)
    monkeypatch.setattr(Order, "_shuffle", lambda self, epoch: pytest.fail("it is stored"))
    np.testing.assert_array_equal(Order(23, 4, 7, tmp_path)[np.arange(20)], expected)


def test_a_file_is_checked_once(tmp_path: Path) -> None:
    """Workers and ranks that are told which files were checked do not read them whole, until they are replaced."""
    order = Order(23, 4, 7, tmp_path)
    order.prepare(20)
    (path,) = tmp_path.glob("*.u32")
    status = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([3, 0, 0, 0]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pickle.loads(pickle.dumps(order))[np.arange(1)] == 3
    os.utime(path)
    with pytest.raises(UserError, match="is damaged"):
        pickle.loads(pickle.dumps(order))[np.arange(1)]


def test_preparing_more_extends_and_preparing_again_keeps(tmp_path: Path) -> None:
    Order(23, 4, 7, tmp_path).prepare(12)
    path = tmp_path / "epoch0-n23-seed7.u32"
    kept = path.stat().st_ino
    Order(23, 4, 7, tmp_path).prepare(8)
    assert path.stat().st_ino == kept
    Order(23, 4, 7, tmp_path).prepare(33)
    order = Order(23, 4, 7, tmp_path)
    np.testing.assert_array_equal(order[np.arange(33)], Order(23, 4, 7)[np.arange(33)])


def test_an_order_in_use_is_extended(tmp_path: Path) -> None:
    """A file opened while it was short must not stay in use after more was prepared."""
    order = Order(23, 4, 7, tmp_path)
    order.prepare(4)
    order[np.arange(4)]
    order.prepare(20)
    np.testing.assert_array_equal(order[np.arange(20)], Order(23, 4, 7)[np.arange(20)])


def test_other_orders_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    for n, seed in ((23, 7), (24, 7), (23, 8)):
        Order(n, 4, seed, tmp_path).prepare(20)
    for n, seed in ((23, 7), (24, 7), (23, 8)):
        np.testing.assert_array_equal(Order(n, 4, seed, tmp_path)[np.arange(20)], Order(n, 4, seed)[np.arange(20)])


@pytest.mark.parametrize(
    ("n", "batch_size", "message"),
    [
        (100, 0, "a batch of 0 sequences; it must have at least 1"),
        (100, -3, "a batch of -3 sequences"),
        (0, 1, "0 sequences do not fill one batch of 1"),
        (2**32, 1024, "4294967296 sequences are more than ai2-olmo's 4294967295"),
    ],
)
def test_refused(n: int, batch_size: int, message: str) -> None:
    with pytest.raises(UserError, match=f"^corpus: {message}"):
        Order(n, batch_size, 0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The second folder takes its place, and what it holds is read."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Order(23, 4, 7, tmp_path / "file").prepare(8)
    assert os.listdir(tmp_path) == ["file"]
    Order(23, 4, 7, tmp_path / "file", tmp_path / "run").prepare(8)
    (path,) = (tmp_path / "run").glob("*.u32")
    order = Order(23, 4, 7, tmp_path / "cache", tmp_path / "run")
    order.prepare(8)
    assert not list((tmp_path / "cache").glob("*.u32"))
    order.prepare(9)
    assert (held(path), *map(held, (tmp_path / "cache").glob("*.u32"))) == (8, 9)
    np.testing.assert_array_equal(order[np.arange(9)], Order(23, 4, 7)[np.arange(9)])


def _prepare(folder: Path, barrier: Any, shuffled: Any) -> None:
    order = Order(5_000_000, 4, 7, folder)
    plain = order._shuffle

    def counted(epoch: int) -> Any:
        with shuffled.get_lock():
            shuffled.value += 1
        return plain(epoch)

    order._shuffle = counted
    barrier.wait()
    order.prepare(20)


def test_of_two_writers_one_waits_for_the_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, shuffled = context.Barrier(2), context.Value("i", 0)
    writers = [context.Process(target=_prepare, args=(tmp_path, barrier, shuffled)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert shuffled.value == 1
    assert len(list(tmp_path.glob("*.u32"))) == 1


def test_what_a_shorter_run_stored_is_no_limit(tmp_path: Path) -> None:
    Order(23, 4, 7, tmp_path).prepare(5)
    np.testing.assert_array_equal(Order(23, 4, 7, tmp_path)[np.arange(40)], Order(23, 4, 7)[np.arange(40)])


def test_runs_of_different_lengths_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "STORED_AT_ONCE", 8)
    sizes = []
    for n_positions in (3, 8, 9, 17, 20):
        Order(23, 4, 7, tmp_path).prepare(n_positions)
        (path,) = tmp_path.glob("*.u32")
        sizes.append(held(path))
    assert sizes == [8, 8, 16, 20, 20], "of an epoch of 20 positions"


def test_first_positions() -> None:
    order = Order(50, 8, seed=3)  # 48 positions an epoch
    positions = order[np.arange(20 * 8)]
    expected = {s: int(np.flatnonzero(positions == s)[0]) for s in (3, 17, 44)}
    assert order.first_positions([44, 3, 17, 3], 20) == expected
    assert order.first_positions([int(positions[9]), int(positions[47])], 2) == {int(positions[9]): 9}
