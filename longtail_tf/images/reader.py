"""Rows of a split to preprocessed images: reads, decodes, keeps what fits in memory.

Preprocessing has no randomness, so its result (not the file's bytes) is kept: after the first
pass a small-image data set of JPEGs costs a memory copy an image. The first rows read stay until
the budget is full; as every row is drawn equally often within its class, no other choice of rows
would be read from memory more often by much, and none has to be thrown out.

A bad image in training is replaced by another of its class, counted and warned of. Which one
depends on (seed, step, slot) only, not on what was read before, so resuming repeats it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.preprocess import preprocess_bytes, preprocess_images

CACHE_BYTES = 2**30
MAX_BAD_SHARE = 0.05
_REPLACEMENT_TRIES = 64
_WARNINGS_IN_FULL = 5
_GREY = 128
_UNREAD, _CLAIMED = 0, -1  # other values: 1 + the place among the kept images


class ImageReader:
    """Reads images of one split; safe to call from many threads, streams may share it."""

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        channels: int,
        cache_bytes: int = CACHE_BYTES,
        max_bad_share: float = MAX_BAD_SHARE,
    ) -> None:
        """Prepares to read; nothing is read yet.

        Args:
          split: labels and images by row.
          image_size: side S of the images, px.
          channels: 1 or 3.
          cache_bytes: memory for preprocessed images; 0 keeps none.
          max_bad_share: 0..1; training stops when more of the split's images are bad (one bad
            image alone never stops it).
        """
        self._split = split
        self._shape = (image_size, image_size, channels)
        self._max_bad = max(1, int(max_bad_share * len(split)))
        self._max_bad_share = max_bad_share
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()
        capacity = min(len(split), cache_bytes // int(np.prod(self._shape)))
        self._kept = np.empty((capacity, *self._shape), np.uint8)  # memory is taken when written
        self._num_kept = 0
        self._places = np.zeros(len(split), np.int32)
        self._gives_ready_images: bool | None = False if split.encoded else None

    def read(
        self,
        rows: np.ndarray,
        *,
        replacement_key: tuple[int, ...] | None = None,
        first_slot: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads preprocessed images.

        Args:
          rows: int64 [B].
          replacement_key: whole numbers that choose the replacements of bad images, with the
            slot; None means there are none: a bad image is an error.
          first_slot: the slot of the first row in its batch.

        Returns:
          images uint8 [B, S, S, C] and int64 [B], the rows they are of.

        Raises:
          UserError: a bad image and no `replacement_key`, or more bad images than allowed.
        """
        if self._gives_ready_images is None:
            self._gives_ready_images = self._split.read(rows[:1]).shape[1:] == self._shape
        if self._gives_ready_images:
            return self._split.read(rows), rows
        places = self._places[rows]
        if (places > 0).all():
            return self._kept[places - 1], rows
        distinct, slots = np.unique(rows, return_inverse=True)
        images, bad = self._read_distinct(distinct)
        images, rows = images[slots], np.array(rows)
        if bad:
            if replacement_key is None:
                row, reason = next(iter(bad.items()))
                raise UserError(
                    f"{self._split.describe(row)} is not a readable image ({reason}): restore or "
                    "remove the file, or list it in a file given as --exclude."
                )
            self._count(bad)
            for slot in np.flatnonzero(np.isin(rows, list(bad))):
                key = (*replacement_key, first_slot + int(slot))
                images[slot], rows[slot] = self._replacement(int(rows[slot]), key)
        return images, rows

    def _read_distinct(self, rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Images of distinct rows (arbitrary where bad), and the reason of each bad row."""
        images = np.empty((len(rows), *self._shape), np.uint8)
        places = self._places[rows]
        kept = places > 0
        images[kept] = self._kept[places[kept] - 1]
        bad = {int(row): self._bad[row] for row in rows.tolist() if row in self._bad}
        new = np.flatnonzero(~kept & ~np.isin(rows, list(bad)))
        if not len(new):
            return images, bad
        try:
            images[new] = self._preprocess(self._split.read(rows[new]))
        except (UserError, OSError, tf.errors.InvalidArgumentError):  # find out which
            found = {}
            for i in new:
                row = int(rows[i])
                try:
                    images[i] = self._read_one(row)
                except (UserError, OSError, tf.errors.InvalidArgumentError) as error:
                    found[row] = _reason(error)
            bad.update(found)
            new = new[~np.isin(rows[new], list(found))]
        self._keep(rows[new], images[new])
        return images, bad

    def _read_one(self, row: int) -> np.ndarray:
        read = self._split.read(np.array([row]))
        if not self._split.encoded:
            return self._preprocess(read)[0]
        # Not traced: an error in a graph is told with all the graph's own names.
        return preprocess_bytes(
            tf.constant(read[0]), image_size=self._shape[0], channels=self._shape[2]
        ).numpy()

    def _preprocess(self, read: np.ndarray) -> np.ndarray:
        if self._split.encoded:
            return _decoder(self._shape)(tf.constant(list(read), tf.string)).numpy()
        return _resizer(self._shape, read.shape[1:])(tf.constant(read)).numpy()

    def _keep(self, rows: np.ndarray, images: np.ndarray) -> None:
        with self._lock:
            fits = np.flatnonzero(self._places[rows] == _UNREAD)
            fits = fits[: len(self._kept) - self._num_kept]
            places = np.arange(self._num_kept, self._num_kept + len(fits), dtype=np.int32)
            self._num_kept += len(fits)
            self._places[rows[fits]] = _CLAIMED
        self._kept[places] = images[fits]
        self._places[rows[fits]] = places + 1  # only now: other threads read what a place points at

    def _replacement(self, bad_row: int, key: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Another image of the class and its row; a grey image of `bad_row` if there is none."""
        candidates = np.flatnonzero(self._split.labels == self._split.labels[bad_row])
        order = np.random.default_rng(key).permutation(len(candidates))
        for row in candidates[order[:_REPLACEMENT_TRIES]]:
            images, bad = self._read_distinct(np.array([row]))
            if not bad:
                return images[0], int(row)
            self._count(bad)
        return np.full(self._shape, _GREY, np.uint8), bad_row

    def _count(self, bad: dict[int, str]) -> None:
        """Warns of bad rows not seen before, and stops over the allowed number."""
        with self._lock:
            new = {row: reason for row, reason in bad.items() if row not in self._bad}
            first = len(self._bad) + 1
            self._bad.update(new)
        for count, (row, reason) in enumerate(new.items(), first):
            if count <= _WARNINGS_IN_FULL or (count & (count - 1)) == 0:
                logging.warning(
                    "bad image %d of this split: %s (%s); another image of its class takes its "
                    "place, a grey one if there is none",
                    count, self._split.describe(row), reason,
                )  # fmt: skip
        count = len(self._bad)
        if count > self._max_bad:
            row, reason = next(iter(self._bad.items()))
            raise UserError(
                f"{count} of {len(self._split)} training images cannot be read, more than the "
                f"{self._max_bad_share:.0%} allowed; the first is {self._split.describe(row)} "
                f"({reason}): repair the data set, or list them in a file given as --exclude."
            )


@functools.cache  # traced once a process, not once a reader
def _decoder(shape: tuple[int, int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Bytes string [N] to uint8 [N, S, S, C]; fails as a whole where one image is bad."""
    one = functools.partial(preprocess_bytes, image_size=shape[0], channels=shape[2])

    def decode(image_bytes: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            one,
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=1,  # the other cores are busy with other batches
        )

    return tf.function(decode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


@functools.cache
def _resizer(
    shape: tuple[int, int, int], read_shape: tuple[int, int, int]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Pixels uint8 [N, *read_shape] to uint8 [N, S, S, C]."""

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        return preprocess_images(pixels, image_size=shape[0], channels=shape[2])

    spec = tf.TensorSpec((None, *read_shape), tf.uint8)
    return tf.function(resize, input_signature=[spec], autograph=False)


def _reason(error: Exception) -> str:
    """What is wrong with an image, without TensorFlow's words on where in its graph."""
    text = getattr(error, "message", None) or str(error)
    refusal = re.search(r"image refused: [^'\]]+", text)
    if refusal:
        return refusal[0]
    text = re.sub(r"^\{\{.*?\}\} ", "", text.split("\n")[0])
    return text.split(" [Op:")[0].strip(" .")[:200]
