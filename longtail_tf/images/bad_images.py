"""The bad images of a split: counted, warned of, and a stop when there are too many."""

from __future__ import annotations

import re
import threading

from absl import logging

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError

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
