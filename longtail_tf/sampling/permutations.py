"""Seeded permutations without generator state: whole ones by sorting, entries by hashing.

Both are written out here, not taken from `numpy.random`, so that one (seed, step) gives the same
batch on every NumPy version: a resumed run must continue the interrupted one.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the stride of splitmix64
_CHUNK = 1 << 15  # 256 KB of uint64: the mixing stays in the processor's cache


def stream_key(seed: int, *parts: int) -> int:
    """Folds whole numbers into one 64-bit key; different parts give unrelated keys."""
    key = 0
    for part in (seed, *parts):
        word = (key ^ (part & _MASK)) * 0xD1342543DE82EF95 & _MASK
        key = (int(_mix(np.array([word], np.uint64))[0]) + _GOLDEN) & _MASK
    return key


def hash_words(key: int, *parts: np.ndarray) -> np.ndarray:
    """Hashes equally long integer arrays [n] under `key`, entry by entry, to uint64 [n]."""
    words = np.full(parts[0].shape, key, np.uint64)
    for part in parts:
        words ^= part.astype(np.uint64)
        words = _mix(words * np.uint64(_GOLDEN))
    return words


def seeded_orders(key: int, first: int, count: int, size: int) -> np.ndarray:
    """Independent random orders of 0 .. size-1, one for each pass number.

    Args:
        key: from `stream_key`.
        first: number of the first pass, >= 0.
        count: how many passes.
        size: how many things are ordered, 1 .. 2^31 - 1.

    Takes 20 bytes an entry while it works.

    Returns:
        int32 [count, size]; row i depends on (key, first + i, size) only.
    """
    if count > 1 and size > _CHUNK:
        return np.concatenate([seeded_orders(key, first + i, 1, size) for i in range(count)])
    pass_keys = hash_words(key, np.arange(first, first + count, dtype=np.uint64))[:, None]
    random = np.empty((count, size), np.uint32)
    width = max(1, _CHUNK // count)
    for start in range(0, size, width):
        index = np.arange(start, min(start + width, size), dtype=np.uint64)
        words = _mix(pass_keys + (index + np.uint64(1)) * np.uint64(_GOLDEN))
        random[:, start : start + width] = words >> np.uint64(32)
    # Ordered by 32 random bits, low half first: NumPy sorts 16-bit keys by radix, which takes two
    # thirds of the time of one sort by all bits. Equal ones (116 pairs in a million) keep order.
    low, high = random.astype(np.uint16), (random >> np.uint32(16)).astype(np.uint16)
    del random
    if count == 1:
        order = np.argsort(low[0], kind="stable").astype(np.int32)
        del low
        return order[np.argsort(high[0][order], kind="stable")][None]
    order = np.argsort(low, axis=1, kind="stable").astype(np.int32)
    by_high = np.argsort(np.take_along_axis(high, order, 1), axis=1, kind="stable")
    return np.take_along_axis(order, by_high, 1)


def permute(positions: np.ndarray, sizes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Where each position goes in its own keyed permutation, without building the permutation.

    Four multiply-add rounds with xor-shifts between them, each a bijection of the next power of
    two, then cycle walking (as in format-preserving encryption): an entry that lands at or past
    its size goes through again, which keeps the map a bijection of 0 .. size-1. O(1) time and no
    memory for a class of any size.

    Args:
        positions: uint32 [K, n], entry [k, i] below sizes[i].
        sizes: uint32 [n], 1 .. 2^31 - 1.
        words: uint64 [n], one hash for each permutation.

    Returns:
        uint32 [K, n], below `sizes`.
    """
    bits = np.frexp((sizes - np.uint32(1)).astype(np.float64))[1].astype(np.uint64)
    keys = [
        ((bits + np.uint64(1)) >> np.uint64(1)).astype(np.uint32),
        ((np.uint64(1) << bits) - np.uint64(1)).astype(np.uint32),
    ]
    # Each round has numbers of its own, or positions would not be equally likely.
    for _ in range(4):
        words = _mix(words + np.uint64(_GOLDEN))
        keys.append(words.astype(np.uint32) | np.uint32(1))
        keys.append((words >> np.uint64(32)).astype(np.uint32))
    places = _scramble(positions, *keys)
    walking = np.nonzero(places >= sizes)
    while walking[0].size:
        columns = walking[1]
        again = _scramble(places[walking], *(key[columns] for key in keys))
        places[walking] = again
        outside = again >= sizes[columns]
        walking = (walking[0][outside], columns[outside])
    return places


def _scramble(
    x: np.ndarray, shift: np.ndarray, mask: np.ndarray, *rounds: np.ndarray
) -> np.ndarray:
    x = x.copy()
    for number in range(0, len(rounds), 2):
        if number:
            x ^= x >> shift
        x *= rounds[number]
        x += rounds[number + 1]
        x &= mask
    return x


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood 2014), a bijection of 64 bits."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
