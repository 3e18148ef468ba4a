"""Class prototypes: where each class stands in embedding space, from its training images.

A prototype is the mean of a class's L2-normalised embeddings, normalised again; the nearest one by
cosine names the class (NCM, Kang 2020, arXiv:1910.09217, section 4; Snell 2017, arXiv:1703.05175).
It needs no training, so a class of one image gets a prototype as good as its image.
"""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_embeddings, unit_rows

_COLUMNS = 8  # summed per pass over the images: contiguous reads for a copy of N x 8 numbers


def class_prototypes(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the unit-norm prototype of each class.

    O(N D) time; memory beside the result is 40 bytes an image, so a million classes are fine.

    Args:
      embeddings: float [N, D]; any length, each is normalised first.
      labels: int [N], class ids in 0..num_classes-1.
      num_classes: C.

    Returns:
      float32 [C, D].

    Raises:
      UserError: a class without an image (a made-up prototype would attract images), an embedding
        that is not finite, a label outside the classes.
    """
    vectors, labels = checked_embeddings(embeddings, labels)
    return unit_rows(class_means(unit_rows(vectors), labels, num_classes))


def class_means(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the plain mean embedding of each class, float32 [C, D], summed in float64.

    Args and errors are those of `class_prototypes`; embeddings are not normalised.
    """
    embeddings, labels = checked_embeddings(embeddings, labels)
    counts = class_counts(labels, num_classes)
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise UserError(
            f"the embedding of image {bad} holds NaN or infinity; the network has diverged: "
            "train with a lower learning rate"
        )
    means = np.empty((num_classes, embeddings.shape[1]), np.float32)
    for start in range(0, embeddings.shape[1], _COLUMNS):
        block = np.ascontiguousarray(embeddings[:, start : start + _COLUMNS].T)
        for offset, column in enumerate(block):
            total = np.bincount(labels, weights=column, minlength=num_classes)
            means[:, start + offset] = total / counts
    return means


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the images of each class, int64 [C]; every class must have one."""
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels run over {labels.min()}..{labels.max()}; expected class ids within "
            f"0..{num_classes - 1}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if empty.size > 5 else "")
        raise UserError(
            f"{empty.size} of {num_classes} classes have no image to make a prototype from "
            f"(class ids {shown}); give each class an image or leave it out"
        )
    return counts
