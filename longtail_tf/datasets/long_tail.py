"""Long-tailed cuts of balanced data sets, as the literature makes them."""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError


def long_tailed_counts(num_classes: int, max_count: int, imbalance_factor: float) -> list[int]:
    """Images of each class in an exponential long-tailed cut.

    Class `c` keeps `int(max_count * (1 / imbalance_factor) ** (c / (num_classes - 1)))` images:
    truncated, as in the published code of Cao et al. 2019 (arXiv:1906.07413), section 4.1.
    Ten classes of 5,000 at factor 100 give 12,406 images.

    Args:
      num_classes: number of classes, >= 1.
      max_count: images of the first class.
      imbalance_factor: images of the first class over images of the last, >= 1.
    """
    if num_classes < 1 or max_count < 1:
        raise UserError(
            f"a long-tailed cut needs at least one class and one image, not "
            f"num_classes={num_classes} and max_count={max_count}"
        )
    if not 1 <= imbalance_factor < float("inf"):
        raise UserError(
            f"imbalance_factor={imbalance_factor:g} is not a ratio of the largest class to the "
            "smallest; give a number of 1 (no cut) or more"
        )
    if num_classes == 1:
        return [max_count]
    return [
        int(max_count * (1 / imbalance_factor) ** (c / (num_classes - 1)))
        for c in range(num_classes)
    ]


def long_tailed_rows(
    labels: np.ndarray,
    *,
    num_classes: int,
    imbalance_factor: float,
    seed: int,
    rows: np.ndarray,
    by_count: bool = False,
) -> np.ndarray:
    """Which of `rows` stay in a long-tailed cut: int64, rising.

    Classes shrink in label order, as in the literature's cuts of balanced sets: class 0 keeps all
    its images, the last class the fewest. A class that has fewer images than its share keeps all of
    them.

    Args:
      labels: int [N] class ids of all rows.
      num_classes: number of classes.
      imbalance_factor: images of the largest class over images of the last.
      seed: chooses the images; the counts do not depend on it.
      rows: int [M] the rows to cut.
      by_count: classes shrink by falling count instead (in label order where counts are equal), so
        that a set that is not balanced gets the curve that was asked for.
    """
    counts = count_classes(labels, rows=rows, num_classes=num_classes)
    largest = int(counts.max()) if len(counts) else 0
    wanted = np.asarray(long_tailed_counts(num_classes, largest, imbalance_factor))
    if imbalance_factor > largest:
        raise UserError(
            f"imbalance_factor={imbalance_factor:g} would leave the last class without an image, "
            f"because the largest has {largest}; give a factor of at most {largest}"
        )
    # The formula's floating-point power can fall just short of 1 (49 * (1 / 49) does).
    wanted = np.maximum(wanted, 1)
    if by_count:
        ranked = np.empty_like(wanted)
        ranked[np.argsort(-counts, kind="stable")] = wanted
        wanted = ranked
    wanted = np.minimum(wanted, counts)
    return draw_per_class(labels, wanted, seed=seed, rows=rows)


def make_long_tailed(
    images: np.ndarray, labels: np.ndarray, *, imbalance_factor: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a data set long-tailed; rows that stay keep their order.

    Args:
      images: [N, ...] images.
      labels: int [N] class ids 0..C-1; the classes shrink in this order.
      imbalance_factor: images of the largest class over images of the last class.
      seed: chooses which images of a class stay, without replacement.

    Returns:
      (images, labels) of the rows that stay.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise UserError(
            f"make_long_tailed got {len(images)} images and labels of type {labels.dtype} and "
            f"shape {list(labels.shape)}; give one whole number for each image"
        )
    if not len(labels) or labels.min() < 0:
        raise UserError(
            "make_long_tailed got no image or a negative label; give labels from 0 to C - 1"
        )
    rows = long_tailed_rows(
        labels,
        num_classes=int(labels.max()) + 1,
        imbalance_factor=imbalance_factor,
        seed=seed,
        rows=np.arange(len(labels)),
    )
    return images[rows], labels[rows]


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
