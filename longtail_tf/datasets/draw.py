"""A seeded choice of so many rows of each class, without a loop over classes."""

from __future__ import annotations

import numpy as np

# Rows are packed this many at a time, so that temporaries stay small beside the result.
_CHUNK = 1 << 20


def draw_per_class(
    labels: np.ndarray, wanted: np.ndarray, *, seed: int, rows: np.ndarray
) -> np.ndarray:
    """Chooses `wanted[c]` rows of each class `c` at random, without replacement.

    Class, random bits and row are packed into one 64-bit word each and sorted in place: for ten
    million rows that takes a second and one temporary of 8 bytes a row, where a loop over a
    million classes would take minutes.

    Args:
      labels: int [N] class ids of all rows, >= 0.
      wanted: int [C] how many rows to draw of each class; at most as many as the class has.
      seed: any integer; the choice is a pure function of it and of the other arguments.
      rows: int [M] the rows to draw from.

    Returns:
      The chosen rows, int64, rising.
    """
    wanted = np.asarray(wanted, np.int64)
    counts = count_classes(labels, rows=rows, num_classes=len(wanted))
    if np.any(wanted > counts):
        short = int(np.argmax(wanted > counts))
        raise IndexError(f"class {short} has {counts[short]} rows, {wanted[short]} wanted")
    counts[wanted == 0] = 0
    if not counts.any():
        return np.zeros(0, np.int64)
    class_bits = max(int(len(wanted) - 1).bit_length(), 1)
    row_bits = max(int(rows.max()).bit_length(), 1)
    random_bits = 64 - class_bits - row_bits
    # The raw stream of PCG64 is the same in every numpy version; drawn integers are not promised.
    source = np.random.PCG64(np.random.SeedSequence([seed % 2**64]))
    packed, at = np.empty(int(counts.sum()), np.uint64), 0
    for begin in range(0, len(rows), _CHUNK):
        own = rows[begin : begin + _CHUNK]
        own = own[wanted[labels[own]] > 0]
        part = packed[at : at + len(own)]
        part[:] = source.random_raw(len(own)) >> np.uint64(class_bits + row_bits)
        part <<= np.uint64(row_bits)
        part |= own.astype(np.uint64)
        part |= labels[own].astype(np.uint64) << np.uint64(row_bits + random_bits)
        at += len(own)
    packed.sort()
    packed &= np.uint64((1 << row_bits) - 1)

    starts = np.cumsum(counts) - counts
    ends = np.cumsum(wanted)
    inside = np.arange(int(ends[-1])) - np.repeat(ends - wanted, wanted)
    chosen = packed[np.repeat(starts, wanted) + inside].astype(np.int64)
    chosen.sort()
    return chosen


def rows_where(split: np.ndarray, code: int) -> np.ndarray:
    """The rows of a split, rising: int32 [M] where that is enough."""
    chunks = range(0, len(split), _CHUNK)
    rows = np.empty(
        sum(int(np.count_nonzero(split[begin : begin + _CHUNK] == code)) for begin in chunks),
        np.int32 if len(split) < 2**31 else np.int64,
    )
    at = 0
    for begin in chunks:
        part = np.flatnonzero(split[begin : begin + _CHUNK] == code)
        rows[at : at + len(part)] = part + begin
        at += len(part)
    return rows


def count_classes(labels: np.ndarray, *, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """How many of `rows` each class has: int64 [num_classes]."""
    counts = np.zeros(num_classes, np.int64)
    for begin in range(0, len(rows), _CHUNK):
        counts += np.bincount(labels[rows[begin : begin + _CHUNK]], minlength=num_classes)
    return counts
