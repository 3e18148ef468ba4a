"""Class-balanced sampling: every class drawn alike, whatever its number of images."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.sampling.checks import (
    Shard,
    checked_rows,
    checked_seed,
    checked_step,
    checked_whole,
    shard_slice,
)
from longtail_tf.sampling.class_decks import EvenDeck
from longtail_tf.sampling.class_rows import group_rows_by_class
from longtail_tf.sampling.permutations import hash_words, permute, stream_key
from longtail_tf.sampling.samplers import BatchBlocks


class BalancedSampler:
    """Batches in which each class is as likely as any other (Kang 2020, arXiv:1910.09217, q = 0).

    The paper draws with replacement. Here classes come from a shuffled deck, each once per pass,
    and the images of a class in a seeded order, each once before any comes again: the same in
    expectation, without the noise. A pure function of (seed, step), as the other samplers.

    Memory: 8 bytes an image and 8 a class.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int):
        """Takes the rows to draw from.

        Args:
          rows: row numbers [N].
          labels: class of each of them, whole numbers [N].
          batch_size: images in a batch, at least 1.
          seed: any whole number.

        Raises:
          UserError: no rows, labels that do not fit them, or a batch size below 1.
        """
        self._rows = checked_rows(rows)
        if np.shape(labels) != self._rows.shape:
            raise UserError(
                f"labels of shape {list(np.shape(labels))} came with {len(self._rows)} rows: give "
                "one label a row."
            )
        self.batch_size = checked_whole("batch_size", batch_size, least=1)
        self.seed = checked_seed(seed)
        self._classes = group_rows_by_class(labels)
        self._deck = EvenDeck(self._classes.num_classes, self.batch_size, stream_key(self.seed, 3))
        self._image_key = stream_key(self.seed, 4)
        self._blocks = BatchBlocks(self.batches, self.batch_size)

    def batch(self, step: int, *, shard: Shard | None = None) -> np.ndarray:
        """Row numbers of one batch, int64 [batch_size], or of one replica's share of it."""
        return self._blocks.batch(step, shard_slice(shard, self.batch_size))

    def batches(self, start: int, count: int, *, shard: Shard | None = None) -> np.ndarray:
        """Batches of the steps start .. start + count - 1, int64 [count, batch_size]."""
        part = shard_slice(shard, self.batch_size)
        checked_step(start + checked_whole("count", count, least=1) - 1)
        classes, visits = self._deck.deal(checked_step(start), count)
        rows = self._images(classes.ravel(), visits.ravel())
        return rows.reshape(count, self.batch_size)[:, part]

    def describe(self, steps_done: int | None = None) -> dict[str, Any]:
        """Images, classes, steps for one pass over the classes; images seen in `steps_done`."""
        facts: dict[str, Any] = {
            "kind": "balanced",
            "seed": self.seed,
            "images": len(self._rows),
            "classes": self._classes.num_classes,
            "batch_size": self.batch_size,
            "steps_per_class_pass": self._deck.steps_per_pass,
        }
        if steps_done is not None:
            visits = self._deck.visits_before(checked_step(steps_done))
            facts["seen"] = {
                "steps": int(steps_done),
                "exact": True,
                "images": int(np.minimum(visits, self._classes.counts()).sum()),
            }
        return facts

    def state(self) -> dict[str, Any]:
        """What must be equal for a resumed run to continue this one; the rest is the step."""
        rows = zlib.crc32(self._classes.rows.data, zlib.crc32(self._rows.data))
        return {
            "kind": "balanced",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rows_crc32": zlib.crc32(self._classes.offsets.data, rows),
        }

    def _images(self, classes: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """Row int64 [n] of each visit of a class: its images in turn, each round in a new order."""
        begins = self._classes.offsets[classes].astype(np.int64)
        sizes = self._classes.counts()[classes]
        rounds, places = np.divmod(visits, sizes)
        words = hash_words(self._image_key, classes, rounds)
        places = permute(places[None].astype(np.uint32), sizes.astype(np.uint32), words)[0]
        return self._rows[self._classes.rows[begins + places]].astype(np.int64)
