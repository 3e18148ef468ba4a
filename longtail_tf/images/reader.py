"""Rows of a split to preprocessed images: reads, decodes, keeps what fits in memory.

Preprocessing has no randomness, so its result (not the file's bytes) is kept: after the first
pass a small-image data set of JPEGs costs a memory copy an image. The first rows read stay until
the budget is full; as every row is drawn equally often within its class, no other choice of rows
would be read from memory more often by much, and none has to be thrown out. Of random windows the
files are kept instead, in the same budget.

A bad image in training is replaced by another of its class, counted and warned of. Which one
depends on (seed, step, slot) only, not on what was read before, so resuming repeats it.
"""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import tensorflow as tf

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.decoders import decoder, resizer, window_decoder, window_resizer
from longtail_tf.images.kept_files import MAX_BAD_SHARE, BadImages, Budget, KeptFiles, reason_of
from longtail_tf.images.preprocess import preprocess_bytes

CACHE_BYTES = 2**30
_REPLACEMENT_TRIES = 64
_GREY = 128
_FAULTS = (UserError, OSError, tf.errors.InvalidArgumentError)
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
          cache_bytes: memory for preprocessed images, and for the files of images of which
            windows are read; 0 keeps none.
          max_bad_share: 0..1; training stops when more of the split's images are bad (one bad
            image alone never stops it).
        """
        self._split = split
        self._shape = (image_size, image_size, channels)
        self._image_bytes = int(np.prod(self._shape))
        self._bad = BadImages(split, max_share=max_bad_share)
        self._lock = threading.Lock()
        self._budget = Budget(cache_bytes)
        self._files = KeptFiles(split, budget=self._budget)
        capacity = min(len(split), cache_bytes // self._image_bytes)
        self._kept = np.empty((capacity, *self._shape), np.uint8)  # memory is taken when written
        self._num_kept = 0
        self._places = np.zeros(len(split), np.int32)
        self._gives_ready_images: bool | None = False if split.encoded else None

    def gives_ready_images(self) -> bool:
        """Whether the split holds arrays of the wanted shape, which are given as they are."""
        if self._gives_ready_images is None:
            first = self._split.read(np.zeros(1, np.int64))
            self._gives_ready_images = first.shape[1:] == self._shape
        return self._gives_ready_images

    def read(
        self,
        rows: np.ndarray,
        *,
        window_draws: np.ndarray | None = None,
        replacement_key: tuple[int, ...] | None = None,
        first_slot: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads preprocessed images.

        Args:
          rows: int64 [B].
          window_draws: uniform float32 [4, B]: a window of each image, by its own draws (see
            `window`), instead of all of it; not for a split that gives ready images.
          replacement_key: whole numbers that choose the replacements of bad images, with the
            slot; None means there are none: a bad image is an error.
          first_slot: the slot of the first row in its batch.

        Returns:
          images uint8 [B, S, S, C] and int64 [B], the rows they are of.

        Raises:
          UserError: a bad image and no `replacement_key`, or more bad images than allowed.
        """
        if window_draws is None:
            if self.gives_ready_images():
                return self._split.read(rows), rows
            places = self._places[rows]
            if (places > 0).all():
                return self._kept[places - 1], rows
        images, bad = self._read_slots(rows, window_draws)
        rows = np.array(rows)
        if bad and replacement_key is None:
            slot, reason = next(iter(bad.items()))
            raise UserError(
                f"{self._split.describe(int(rows[slot]))} is not a readable image ({reason}): "
                "restore or remove the file, or list it in a file given as --exclude."
            )
        self._bad.count({int(rows[slot]): reason for slot, reason in bad.items()})
        for slot in bad:
            key = (*(replacement_key or ()), first_slot + slot)
            draws = None if window_draws is None else window_draws[:, slot : slot + 1]
            images[slot], rows[slot] = self._replacement(int(rows[slot]), key, draws)
        return images, rows

    def read_good(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `read`, but bad images are counted and left out: [G, S, S, C] and the G rows.

        Raises:
          UserError: more bad images than allowed.
        """
        if self.gives_ready_images():
            return self._split.read(rows), rows
        images, bad = self._read_slots(rows, None)
        self._bad.count({int(rows[slot]): reason for slot, reason in bad.items()})
        good = np.setdiff1d(np.arange(len(rows)), list(bad))
        return images[good], rows[good]

    def _read_slots(
        self, rows: np.ndarray, window_draws: np.ndarray | None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Images (arbitrary where bad), and the reason of each bad slot."""
        if window_draws is not None:
            return self._read_windows(rows, window_draws)
        distinct, slots = np.unique(rows, return_inverse=True)
        if len(distinct) == len(rows):  # as they are: putting them in order would copy them all
            images, bad = self._read_distinct(rows)
        else:
            images, bad = self._read_distinct(distinct)
            images = images[slots]
        if not bad:
            return images, {}
        return images, {s: bad[row] for s, row in enumerate(rows.tolist()) if row in bad}

    def _read_distinct(self, rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Images of distinct rows (arbitrary where bad), and the reason of each bad row."""
        places = self._places[rows]
        kept = places > 0
        known = self._bad.reasons
        bad = {row: known[row] for row in rows.tolist() if row in known}
        new = np.flatnonzero(~kept & ~np.isin(rows, list(bad)))
        read = None
        with contextlib.suppress(*_FAULTS):
            read = self._preprocess(self._split.read(rows[new]), None) if len(new) else None
        if read is not None and len(new) == len(rows):
            self._keep(rows, read, new)
            return read, bad
        images = np.empty((len(rows), *self._shape), np.uint8)
        images[kept] = self._kept[places[kept] - 1]
        if read is not None:
            images[new] = read
        else:  # find out which are bad
            found = {}
            for i in new:
                try:
                    images[i] = self._read_one(int(rows[i]), None)
                except _FAULTS as error:
                    found[int(rows[i])] = reason_of(error)
            bad.update(found)
            new = new[~np.isin(rows[new], list(found))]
        self._keep(rows, images, new)
        return images, bad

    def _read_windows(
        self, rows: np.ndarray, draws: np.ndarray
    ) -> tuple[np.ndarray, dict[int, str]]:
        """As `_read_slots`, of windows.

        The good windows of a damaged file are used, whatever is known of the file: otherwise a
        resumed run, which knows less, would see other images.
        """
        bad: dict[int, str] = {}
        suspect = np.isin(rows, list(self._bad.reasons))
        together, alone = np.flatnonzero(~suspect), np.flatnonzero(suspect)
        images = np.empty((0, *self._shape), np.uint8)
        try:
            if len(together):
                read = self._files.read if self._split.encoded else self._split.read
                images = self._preprocess(read(rows[together]), draws[:, together])
        except _FAULTS:
            alone = np.arange(len(rows))
        if len(images) < len(rows):
            images, found = np.empty((len(rows), *self._shape), np.uint8), images
            if len(found):
                images[together] = found
        for slot in alone.tolist():
            try:
                images[slot] = self._read_one(int(rows[slot]), draws[:, slot])
            except _FAULTS as error:
                bad[slot] = reason_of(error)
        return images, bad

    def _read_one(self, row: int, draws: np.ndarray | None) -> np.ndarray:
        read = self._split.read(np.array([row]))
        if not self._split.encoded:
            return self._preprocess(read, None if draws is None else draws[:, np.newaxis])[0]
        # Not traced: an error in a graph comes with all the graph's own names.
        return preprocess_bytes(
            tf.constant(read[0]),
            image_size=self._shape[0],
            channels=self._shape[2],
            window_draws=None if draws is None else tf.constant(draws),
        ).numpy()

    def _preprocess(self, read: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
        """Files object [N] or pixels uint8 [N, H, W, C], or their windows by draws [4, N]."""
        # `np.asarray` shows TensorFlow's own memory, read-only, where `.numpy()` would copy it.
        if self._split.encoded:
            files = tf.constant(list(read), tf.string)
            if draws is None:
                return np.asarray(decoder(self._shape)(files))
            return np.asarray(window_decoder(self._shape)(files, tf.constant(draws.T)))
        if draws is None:
            return np.asarray(resizer(self._shape, read.shape[1:])(tf.constant(read)))
        cut = window_resizer(self._shape, read.shape[1:])
        return np.asarray(cut(tf.constant(read), tf.constant(draws.T)))

    def _keep(self, rows: np.ndarray, images: np.ndarray, new: np.ndarray) -> None:
        """Keeps those of `images`, of `rows`, whose positions are `new`, as far as they fit."""
        with self._lock:
            fits = new[self._places[rows[new]] == _UNREAD]
            most = min(len(fits), len(self._kept) - self._num_kept)
            fits = fits[: self._budget.take_up_to(most, size=self._image_bytes)]
            places = np.arange(self._num_kept, self._num_kept + len(fits), dtype=np.int32)
            self._num_kept += len(fits)
            self._places[rows[fits]] = _CLAIMED
        if len(fits):
            self._kept[places] = images[fits]
            # Only now: other threads read what a place points at.
            self._places[rows[fits]] = places + 1

    def _replacement(
        self, bad_row: int, key: tuple[int, ...], draws: np.ndarray | None
    ) -> tuple[np.ndarray, int]:
        """Another image of the class and its row; a grey image of `bad_row` if there is none."""
        candidates = np.flatnonzero(self._split.labels == self._split.labels[bad_row])
        order = np.random.default_rng(key).permutation(len(candidates))
        for row in candidates[order[:_REPLACEMENT_TRIES]]:
            images, bad = self._read_slots(np.array([row]), draws)
            if not bad:
                return images[0], int(row)
            self._bad.count({int(row): bad[0]})
        return np.full(self._shape, _GREY, np.uint8), bad_row
