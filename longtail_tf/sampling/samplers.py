"""Samplers: which rows are in which batch, as pure functions of (seed, step).

    sampler = PKSampler(labels, classes_per_batch=32, images_per_class=4, seed=0)
    rows = sampler.batch(step)  # int64 [128]: 4 rows of one class, 4 of the next, ...

There is no iterator to save: resuming at a step is calling `batch(step)`. Work per batch is
O(classes_per_batch * images_per_class), whatever the number of classes. Safe to call from many
threads; the answer never depends on the order of calls.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from longtail_tf.sampling.checks import (
    Shard,
    checked_pk_settings,
    checked_rows,
    checked_seed,
    checked_step,
    checked_whole,
    shard_slice,
)
from longtail_tf.sampling.class_decks import EvenDeck, WeightedDeck
from longtail_tf.sampling.class_rows import group_rows_by_class
from longtail_tf.sampling.facts import images_seen, pk_facts
from longtail_tf.sampling.permutations import hash_words, permute, stream_key


class PKSampler:
    """P distinct classes and K images of each in every batch (Hermans 2017, arXiv:1703.07737).

    Classes come from a shuffled deck: each exactly once per pass, also where a batch straddles two
    passes. With `class_power` > 0 a class comes in proportion to count ** class_power instead, at
    most once a batch (`class_decks.WeightedDeck` says how).

    The images of a class are taken in turn round a seeded circle, K at each visit, and the circle
    is shuffled again whenever a visit begins with a round. So images of a class differ by at most
    one in use at any visit, a visit holds K different images when the class has them, and a class
    with fewer fills up with repeats after all of its images.

    Memory: 4 bytes an image and at most 12 a class (24 with `class_power`); while building, and
    for the moment in which a pass is shuffled, 8 bytes an image and 16 a class at most.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        classes_per_batch: int,
        images_per_class: int,
        seed: int,
        class_power: float = 0.0,
    ):
        """Builds the index in O(N) memory and one sort.

        Args:
            labels: class id of each row, whole numbers [N]; a class without a row does not count.
            classes_per_batch: P, 2 .. number of classes.
            images_per_class: K, at least 2.
            seed: any whole number.
            class_power: 0 (every class alike) .. 1 (in proportion to its images).

        Raises:
            UserError: a setting out of its range, or labels that are not class ids.
        """
        index = group_rows_by_class(labels)
        checked_pk_settings(classes_per_batch, images_per_class, class_power, index.num_classes)
        self.classes_per_batch = int(classes_per_batch)
        self.images_per_class = int(images_per_class)
        self.class_power = float(class_power)
        self.seed = checked_seed(seed)
        self.batch_size = self.classes_per_batch * self.images_per_class
        self._rows, self._offsets = index.rows, index.offsets
        self._image_key = stream_key(self.seed, 1)
        key = stream_key(self.seed, 0)
        self._deck: EvenDeck | WeightedDeck = (
            EvenDeck(index.num_classes, self.classes_per_batch, key)
            if self.class_power == 0
            else WeightedDeck(index.counts() ** self.class_power, self.classes_per_batch, key)
        )
        # gcd(n, K) depends on n mod K only, so a table of K entries answers for every class.
        self._common = np.gcd(np.arange(self.images_per_class), self.images_per_class).astype(
            np.uint64
        )
        self._blocks = BatchBlocks(self.batches, self.batch_size)

    def batch(self, step: int, *, shard: Shard | None = None) -> np.ndarray:
        """Row numbers of one batch, K rows of a class side by side.

        Args:
            step: 0 .. 2^40 - 1.
            shard: (index, count) for one of `count` replicas: its P / count whole classes of the
                same batch, so that the replicas in turn make up the single-process batch.

        Returns:
            int64 [P * K], or [P * K / count].
        """
        part = shard_slice(shard, self.batch_size, classes_per_batch=self.classes_per_batch)
        return self._blocks.batch(step, part)

    def batches(self, start: int, count: int, *, shard: Shard | None = None) -> np.ndarray:
        """Batches of the steps start .. start + count - 1 in one draw, int64 [count, P * K]."""
        part = shard_slice(shard, self.batch_size, classes_per_batch=self.classes_per_batch)
        checked_step(start + checked_whole("count", count, least=1) - 1)
        classes, visits = self._deck.deal(checked_step(start), count)
        rows = self._images(classes.ravel(), visits.ravel())
        return rows.reshape(count, self.batch_size)[:, part]

    def describe(self, steps_done: int | None = None) -> dict[str, Any]:
        """What this sampler does to this data set, for logs and for the user before training.

        Args:
            steps_done: when given, the answer has `seen`: classes and images seen and slots that
                repeated an image of their own batch, up to that step. Exact; with `class_power`
                the visits inside the current pass are taken in proportion.
        """
        counts = np.diff(self._offsets)
        facts = pk_facts(
            counts,
            classes_per_batch=self.classes_per_batch,
            images_per_class=self.images_per_class,
            class_rates=self._deck.rates(),
            steps_per_class_pass=self._deck.steps_per_pass,
        )
        facts.update(kind="pk", seed=self.seed, class_power=self.class_power)
        if steps_done is not None:
            visits = self._deck.visits_before(checked_step(steps_done))
            facts["seen"] = {
                "steps": int(steps_done),
                "exact": self.class_power == 0,
                **images_seen(counts, visits, images_per_class=self.images_per_class),
            }
        return facts

    def state(self) -> dict[str, Any]:
        """What must be equal for a resumed run to continue this one; the rest is the step."""
        return {
            "kind": "pk",
            "seed": self.seed,
            "classes_per_batch": self.classes_per_batch,
            "images_per_class": self.images_per_class,
            "class_power": self.class_power,
            "rows_crc32": zlib.crc32(self._offsets.data, zlib.crc32(self._rows.data)),
        }

    def _images(self, classes: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """Rows int64 [n * K] for n visits of classes [n]."""
        k = self.images_per_class
        begins = self._offsets[classes]
        sizes = (self._offsets[1:][classes] - begins).astype(np.uint64)
        # Visits until one begins with a round again: then, and only then, a new circle is safe.
        turn = sizes // self._common[sizes % np.uint64(k)]
        rounds, visits = np.divmod(visits.astype(np.uint64), turn)
        words = hash_words(self._image_key, classes, rounds)
        slot = (visits * np.uint64(k) % sizes).astype(np.uint32)
        sizes = sizes.astype(np.uint32)
        slots = np.empty((k, len(slot)), np.uint32)
        for image in range(k):  # round the circle; cheaper than a division for each image
            slots[image] = slot
            slot += np.uint32(1)
            slot *= slot != sizes
        places = permute(slots, sizes, words)
        places += begins.astype(np.uint32)
        return self._rows[places].T.ravel().astype(np.int64)


class RandomSampler:
    """Batches of rows at random, every row exactly once per pass; no batch holds a row twice.

    (It has to where the batch is larger than the rows; then passes follow each other inside it.)
    Memory: at most 12 bytes a row, and 20 more for the moment in which a pass is shuffled.
    """

    def __init__(self, rows: np.ndarray, *, batch_size: int, seed: int):
        """Takes the rows to draw from, whole numbers [N], and the batch size, at least 1.

        Raises:
            UserError: no rows, rows that are not row numbers, or a batch size below 1.
        """
        self._rows = checked_rows(rows)
        self.batch_size = checked_whole("batch_size", batch_size, least=1)
        self.seed = checked_seed(seed)
        self._deck = EvenDeck(len(self._rows), self.batch_size, stream_key(self.seed, 2))
        self._blocks = BatchBlocks(self.batches, self.batch_size)

    def batch(self, step: int, *, shard: Shard | None = None) -> np.ndarray:
        """Row numbers of one batch, int64 [batch_size], or of one replica's share of it."""
        return self._blocks.batch(step, shard_slice(shard, self.batch_size))

    def batches(self, start: int, count: int, *, shard: Shard | None = None) -> np.ndarray:
        """Batches of the steps start .. start + count - 1, int64 [count, batch_size]."""
        part = shard_slice(shard, self.batch_size)
        checked_step(start + checked_whole("count", count, least=1) - 1)
        places, _ = self._deck.deal(checked_step(start), count)
        return self._rows[places[:, part]].astype(np.int64)

    def describe(self, steps_done: int | None = None) -> dict[str, Any]:
        """Images, steps for one pass and, after `steps_done` steps, passes and images seen."""
        facts: dict[str, Any] = {
            "kind": "random",
            "seed": self.seed,
            "images": len(self._rows),
            "batch_size": self.batch_size,
            "steps_per_image_pass": self._deck.steps_per_pass,
        }
        if steps_done is not None:
            slots = checked_step(steps_done) * self.batch_size
            facts["seen"] = {
                "steps": int(steps_done),
                "exact": True,
                "images": min(slots, len(self._rows)),
                "passes": slots / len(self._rows),
            }
        return facts

    def state(self) -> dict[str, Any]:
        """What must be equal for a resumed run to continue this one; the rest is the step."""
        return {
            "kind": "random",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rows_crc32": zlib.crc32(self._rows.data),
        }


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
