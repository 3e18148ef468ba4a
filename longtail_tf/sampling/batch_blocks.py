"""Single batches served from blocks of batches that are drawn at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from longtail_tf.sampling.checks import checked_step

_BLOCK_SLOTS = 1 << 15  # rows drawn at once: NumPy's cost per call is shared by many batches
_BLOCK_STEPS = 256


class BatchBlocks:
    """Keeps the last two blocks, as threads that read ahead work on both sides of a border."""

    def __init__(self, draw: Callable[[int, int], np.ndarray], batch_size: int):
        self._draw = draw
        self._steps = max(1, min(_BLOCK_STEPS, _BLOCK_SLOTS // batch_size))
        self._lock = threading.Lock()
        self._recent: dict[int, np.ndarray] = {}  # replaced as a whole, so reading needs no lock

    def batch(self, step: int, part: slice) -> np.ndarray:
        """A part of the batch of one step: a copy, as others read its block too."""
        number, place = divmod(checked_step(step), self._steps)
        block = self._recent.get(number)
        if block is None:
            with self._lock:  # or every reading thread would draw the same block
                block = self._recent.get(number)
                if block is None:
                    block = self._draw(number * self._steps, self._steps)
                    kept = list(self._recent.items())[-1:]
                    self._recent = dict([*kept, (number, block)])
        return block[place, part].copy()
