"""Counter-based random bits: a pure function of a key and a counter, with no state to save or replay.

Only Philox's raw 64-bit output is used, since the algorithm fixes it (Salmon et al. 2011). Numpy's distributions, which
may change between versions, are not used.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np
from jaxtyping import Int64, UInt64

_WORD = 2**64 - 1
_ROUNDS = 8
_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_NO_BUFFER = np.zeros(4, np.uint64)
_of_thread = threading.local()


def key(*parts: str | int) -> int:
    """A 128-bit key for one purpose, for example `key("rows", plan_seed, task_name)`."""
    # The unit separator distinguishes ("ab", "c") from ("a", "bc").
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:16], "little")


def bits(key: int, n: int, counter: int = 0) -> UInt64[np.ndarray, " n"]:
    """The first `n` 64-bit words of stream `counter` under `key`. A longer draw extends a shorter one.

    Args:
        key: from the function `key`.
        n: number of words.
        counter: number of the stream.
    """
    # Creating a Philox takes three times as long as setting its state, so each thread keeps one and resets it.
    if (philox := getattr(_of_thread, "philox", None)) is None:
        philox = _of_thread.philox = np.random.Philox(key=0)
    low_and_high = np.array([key & _WORD, key >> 64], np.uint64)
    # Philox increments the low words of its 256-bit counter, so streams numbered in the top word never overlap.
    philox.state = {
        "bit_generator": "Philox",
        "state": {"counter": np.array([0, 0, 0, counter], np.uint64), "key": low_and_high},
        "buffer": _NO_BUFFER,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return philox.random_raw(n)


def integers(key: int, n: int, bound: int, counter: int = 0) -> Int64[np.ndarray, " n"]:
    """`n` integers in [0, bound), uniform to within bound / 2^64.

    Args:
        key: from the function `key`.
        n: number of integers.
        bound: upper bound, exclusive, at most 2^32.
        counter: number of the stream.
    """
    assert 0 < bound <= 2**32
    return below(bits(key, n, counter), bound)


def below(words: UInt64[np.ndarray, " n"], bounds: int | Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Map random words to integers in [0, bound): floor(word * bound / 2^64). Each bound is at most 2^32."""
    low, high = words & _LOW_HALF, words >> _HALF
    bound = np.uint64(bounds) if isinstance(bounds, int) else bounds.astype(np.uint64)
    # The high 64 bits of words * bound, computed in place in 32-bit halves since numpy has no 128-bit product.
    low *= bound
    low >>= _HALF
    high *= bound
    high += low
    high >>= _HALF
    return high.view(np.int64)


def permuted(key: int, n: int, places: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """Where a pseudo-random permutation of range(n) sends each of `places`. The permutation is never stored.

    The method is a Feistel network over the next even power of 2 (Luby and Rackoff 1988), applied again to results that
    are `n` or more.

    Args:
        key: from the function `key`.
        n: length of the permutation, at most 2^62.
        places: numbers in 0..n - 1.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    rounds = bits(key, _ROUNDS)
    out = places.astype(np.uint64)
    pending = np.arange(len(out))
    with np.errstate(over="ignore"):
        while len(pending):
            left, right = out[pending] >> half, out[pending] & mask
            for word in rounds:
                mixed = (right ^ word) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
                left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
            out[pending] = left << half | right
            pending = pending[out[pending] >= np.uint64(n)]
    return out.astype(np.int64)


def permutation(key: int, n: int, counter: int = 0) -> Int64[np.ndarray, " n"]:
    """A random permutation of range(n): the sorting order of `n` random words.

    Args:
        key: from the function `key`.
        n: length, at most 2^32.
        counter: number of the stream.
    """
    # Each word has its index in its low bits; sorting such words is twice as fast as sorting indices by words.
    place_bits = np.uint64(max(n - 1, 1).bit_length())
    places = np.uint64((1 << int(place_bits)) - 1)
    words = bits(key, n, counter)
    words &= ~places
    words |= np.arange(n, dtype=np.uint64)
    words.sort()
    words &= places
    return words.view(np.int64)
