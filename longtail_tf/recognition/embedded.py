"""`Embedded`: what one pass of the network over a split leaves, the input of all recognition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError


class Embedded(NamedTuple):
    """Embeddings, head logits and labels of the same images."""

    embeddings: np.ndarray  # float32 [N, D], unit norm
    head_logits: np.ndarray | None  # float32 [N, H]
    labels: np.ndarray  # int32 [N]

    def take(self, rows: np.ndarray) -> Embedded:
        """Returns the images at `rows`, int [n]."""
        logits = None if self.head_logits is None else self.head_logits[rows]
        return Embedded(self.embeddings[rows], logits, self.labels[rows])


def checked_embedded(embedded: Embedded, *, num_classes: int, num_head: int, name: str) -> Embedded:
    """Returns `embedded` as float32, or says what is wrong with it; `name` is its split."""
    embeddings, labels = np.asarray(embedded.embeddings), np.asarray(embedded.labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not labels.size:
        raise UserError(
            f"{name} embeddings have shape {embeddings.shape} and labels {labels.shape}; expected "
            "[N, D] and [N] with N of at least 1"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{name} labels run over {labels.min()}..{labels.max()}; expected class ids within "
            f"0..{num_classes - 1}: the data set has other classes than the run"
        )
    if not np.isfinite(embeddings).all():
        raise UserError(
            f"{name} embeddings hold NaN or infinity; the network has diverged: train with a "
            "lower learning rate"
        )
    logits = embedded.head_logits
    if logits is not None:
        logits = np.asarray(logits, np.float32)
        if logits.shape != (len(labels), num_head):
            raise UserError(
                f"{name} head logits have shape {logits.shape}; expected "
                f"({len(labels)}, {num_head}): one row an image, one column a head class"
            )
        if not num_head:
            logits = None
    return Embedded(embeddings.astype(np.float32, copy=False), logits, labels)
