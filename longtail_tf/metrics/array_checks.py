"""Checks of the arrays that metrics and recognition share, with sentences for what is wrong."""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError

_TINY = np.float32(1e-12)


def checked_class_ids(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns int [N] labels and predictions with the number of classes they live in.

    Predictions may be -1 (rejected as unknown); `num_classes` None means one more than the largest
    id that occurs.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise UserError(
            f"labels have shape {labels.shape} and predictions {predictions.shape}; expected one "
            "class id for each image in both"
        )
    if not labels.size:
        raise UserError("no test image came; a metric needs at least one")
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if not np.issubdtype(ids.dtype, np.integer):
            raise UserError(f"{name} are {ids.dtype}; expected integer class ids")
    # Signed and wide: uint8 labels minus anything would wrap around.
    labels, predictions = labels.astype(np.int64), predictions.astype(np.int64)
    largest = int(max(labels.max(), predictions.max()))
    classes = largest + 1 if num_classes is None else num_classes
    if labels.min() < 0 or largest >= classes or predictions.min() < -1:
        raise UserError(
            f"labels run over {labels.min()}..{labels.max()} and predictions over "
            f"{predictions.min()}..{predictions.max()}; expected class ids within 0..{classes - 1} "
            "(predictions also -1, a rejected image)"
        )
    return labels, predictions, classes


def checked_embeddings(
    embeddings: np.ndarray, labels: np.ndarray, name: str = "embeddings"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [N, D] embeddings and int [N] labels, or says what is wrong with them."""
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not labels.size:
        raise UserError(
            f"{name} have shape {embeddings.shape} and their labels {labels.shape}; expected "
            "[N, D] and [N] with N of at least 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels of {name} are {labels.dtype}; expected integer class ids")
    return embeddings.astype(np.float32, copy=False), labels


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Returns float32 [N, D] rows scaled to length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors / np.maximum(norms, _TINY)
