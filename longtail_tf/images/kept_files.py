"""Encoded images of a split, kept in memory as far as a budget goes.

For windows drawn again each time: their pixels are never asked for twice, the files are.
"""

from __future__ import annotations

import re
import threading

import numpy as np
from absl import logging

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError

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


MAX_BAD_SHARE = 0.05
_WARNINGS_IN_FULL = 5


class BadImages:
    """Which rows of a split could not be read, and why; safe to use from many threads."""

    def __init__(self, split: Split, *, max_share: float) -> None:
        """Counts from zero.

        Args:
          split: the images.
          max_share: 0..1; `count` refuses more than this share of the split (one bad image alone
            is never refused).
        """
        self.reasons: dict[int, str] = {}
        self._split = split
        self._max_share = max_share
        self._most = max(1, int(max_share * len(split)))
        self._lock = threading.Lock()

    def count(self, bad: dict[int, str]) -> None:
        """Warns of bad rows not seen before.

        Raises:
          UserError: there are more bad images than allowed.
        """
        with self._lock:
            new = {row: reason for row, reason in bad.items() if row not in self.reasons}
            first = len(self.reasons) + 1
            self.reasons.update(new)
        for count, (row, reason) in enumerate(new.items(), first):
            if count <= _WARNINGS_IN_FULL or (count & (count - 1)) == 0:
                logging.warning(
                    "bad image %d of this split: %s (%s); another image of its class takes its "
                    "place, a grey one if there is none",
                    count, self._split.describe(row), reason,
                )  # fmt: skip
        count = len(self.reasons)
        if count > self._most:
            row, reason = next(iter(self.reasons.items()))
            raise UserError(
                f"{count} of {len(self._split)} training images cannot be read, more than the "
                f"{self._max_share:.0%} allowed; the first is {self._split.describe(row)} "
                f"({reason}): repair the data set, or list them in a file given as --exclude."
            )


def reason_of(error: Exception) -> str:
    """What is wrong with an image, without TensorFlow's words on where in its graph."""
    text = getattr(error, "message", None) or str(error)
    refusal = re.search(r"image refused: [^'\]]+", text)
    if refusal:
        return refusal[0]
    text = re.sub(r"^\{\{.*?\}\} ", "", text.split("\n")[0])
    return text.split(" [Op:")[0].strip(" .")[:200]
