"""Encoded images of a split, kept in memory as far as a budget goes.

For windows drawn anew each time: their pixels are never asked for twice, the files are.
"""

from __future__ import annotations

import threading

import numpy as np

from longtail_tf.datasets.split import Split

_OVERHEAD_BYTES = 150  # of one entry: the bytes object, the row, their place in the dict


class Budget:
    """Bytes of memory, given out until they are spent; safe to use from many threads."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Takes `size` bytes; False, and nothing is taken, where fewer are left."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def take_up_to(self, count: int, *, size: int) -> int:
        """Takes `size` bytes for each of at most `count` things; for how many it was enough."""
        with self._lock:
            count = min(count, self._left // size)
            self._left -= count * size
            return count


class KeptFiles:
    """Reads encoded images; safe to call from many threads."""

    def __init__(self, split: Split, *, budget: Budget) -> None:
        """Prepares to read; nothing is read yet.

        Args:
          split: encoded images by row.
          budget: memory that may be taken.
        """
        self._split = split
        self._budget = budget
        self._kept: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The files of `rows` int64 [B], object [B] of bytes; a repeated row is read once."""
        distinct, slots = np.unique(rows, return_inverse=True)
        files = np.empty(len(distinct), object)
        files[:] = [self._kept.get(row) for row in distinct.tolist()]
        new = np.flatnonzero([data is None for data in files])
        if len(new):
            files[new] = self._split.read(distinct[new])
            with self._lock:
                for row, data in zip(distinct[new].tolist(), files[new]):
                    if row not in self._kept and self._budget.take(len(data) + _OVERHEAD_BYTES):
                        self._kept[row] = data
        return files[slots]
