"""The hash of what the model was given: the same by both ways of computing it, and changed by any change."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from olmo_inject.runs import evidence

POSITIONS = st.integers(0, 2**62)
TOKENS = st.integers(0, 2**32 - 1)


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, length = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    positions = draw(hnp.arrays(np.int64, n, elements=POSITIONS, unique=True))
    return positions, draw(hnp.arrays(np.int64, (n, length), elements=TOKENS))


def summed(positions: np.ndarray, tokens: np.ndarray) -> str:
    """The audit's way."""
    with np.errstate(over="ignore"):
        return evidence.to_hex(int(evidence.hash_rows(positions, tokens).sum(dtype=np.uint64)))


def given_to_model(positions: np.ndarray, tokens: np.ndarray) -> str:
    """The trainer's way."""
    return evidence.to_hex(int(evidence.hash_sum(torch.from_numpy(positions), torch.from_numpy(tokens))))


@given(batches())
def test_numpy_and_torch_agree_through_every_overflow(batch: tuple[np.ndarray, np.ndarray]) -> None:
    assert summed(*batch) == given_to_model(*batch)


@given(batches())
def test_the_arithmetic_is_modulo_2_64(batch: tuple[np.ndarray, np.ndarray]) -> None:
    """The same in Python's unbounded integers."""
    positions, tokens = batch
    weights = evidence._weights(tokens.shape[1]).tolist()
    hashes = []
    for position, row in zip(positions.tolist(), tokens.tolist(), strict=True):
        x = sum(map(int.__mul__, row, weights)) + position * 0x9E3779B97F4A7C15
        x %= 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        hashes.append(x ^ x >> 31)
    assert evidence.hash_rows(positions, tokens).tolist() == hashes


@given(batches(), st.data())
def test_the_order_and_grouping_of_rows_do_not_matter(
    batch: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    positions, tokens = batch
    shuffled = np.array(data.draw(st.permutations(range(len(positions)))))
    assert summed(positions[shuffled], tokens[shuffled]) == summed(positions, tokens)
    cut = data.draw(st.integers(0, len(positions)))
    parts = [int(given_to_model(positions[half], tokens[half]), 16) for half in (slice(cut), slice(cut, None))]
    assert evidence.to_hex(sum(parts)) == summed(positions, tokens)


@given(batches(), st.data())
def test_any_single_change_shows(batch: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    positions, tokens = batch
    row = data.draw(st.integers(0, len(positions) - 1))
    column = data.draw(st.integers(0, tokens.shape[1] - 1))
    other_tokens, other_positions = tokens.copy(), positions.copy()
    other_tokens[row, column] = data.draw(TOKENS.filter(lambda token: token != tokens[row, column]))
    other_positions[row] = data.draw(POSITIONS.filter(lambda position: position != positions[row]))
    assert summed(positions, other_tokens) != summed(positions, tokens)
    assert summed(other_positions, tokens) != summed(positions, tokens)


def test_rows_at_each_others_positions_show() -> None:
    rng = np.random.default_rng(0)
    positions, tokens = np.arange(40), rng.integers(0, 50_280, (40, 16))
    base = summed(positions, tokens)
    seen = {base}
    for i in range(40):
        for j in range(i):
            swapped = tokens.copy()
            swapped[[i, j]] = tokens[[j, i]]
            seen.add(summed(positions, swapped))
    assert len(seen) == 1 + 40 * 39 // 2
    two_in_a_row = tokens.copy()
    two_in_a_row[3, [5, 6]] = tokens[3, [6, 5]]
    assert summed(positions, two_in_a_row) != base


def test_neighbouring_rows_hash_to_bits_that_look_random() -> None:
    hashes = evidence.hash_rows(np.arange(20_000), np.zeros((20_000, 4), np.int64))
    assert len(np.unique(hashes)) == 20_000
    ones = (hashes[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(20_000)


def test_golden_value() -> None:
    """Evidence files of earlier runs hold these sums."""
    tokens = np.arange(24).reshape(3, 8)
    assert summed(np.array([5, 6, 10**9]), tokens) == "f56215bf6af2d4cb"
    assert given_to_model(np.array([5, 6, 10**9]), tokens) == "f56215bf6af2d4cb"


def test_hex_of_signed_and_unsigned_sums() -> None:
    assert evidence.to_hex(-1) == evidence.to_hex(2**64 - 1) == "f" * 16
    assert evidence.to_hex(0) == "0" * 16
