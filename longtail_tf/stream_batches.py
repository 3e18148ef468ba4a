"""What one stream brings to a train step, and how two streams become one batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# images, labels, source rows; in a mixed head batch also the second labels and the first's weight
Batch = tuple[tf.Tensor, ...]


def batch_size(batch: Batch) -> Any:
    """A number where it is known when tracing: the losses choose their fastest way by it."""
    known = batch[0].shape[0]
    return tf.shape(batch[0])[0] if known is None else known


def labels_and_rows(*batches: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and source rows of the batches one after the other, each int [B]."""
    labels, rows = ([batch[part] for batch in batches] for part in (1, 2))
    return tf.concat(labels, axis=0), tf.concat(rows, axis=0)
