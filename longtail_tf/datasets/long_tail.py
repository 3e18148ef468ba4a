"""Long-tailed cuts of balanced data sets, as the literature makes them."""

from __future__ import annotations

import numpy as np

from longtail_tf.datasets.draw import count_classes, draw_per_class
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
) -> np.ndarray:
    """Which of `rows` stay in a long-tailed cut: int64, rising.

    Classes shrink in label order: class 0 keeps all its images, the last class the fewest. A class
    that has fewer images than its share keeps all of them.

    Args:
      labels: int [N] class ids of all rows.
      num_classes: number of classes.
      imbalance_factor: images of the largest class over images of the last.
      seed: chooses the images; the counts do not depend on it.
      rows: int [M] the rows to cut.
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
    wanted = np.minimum(np.maximum(wanted, 1), counts)
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
