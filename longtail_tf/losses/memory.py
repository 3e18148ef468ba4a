"""Cross-batch memory: the embeddings of the last batches as further pairs for a metric loss.

Wang 2020, section 3.2, arXiv:1912.06798. A memory is a plain tuple of tensors: keep it in variables
of the model, so that checkpoints hold it, and assign what `enqueue` returns.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import tensorflow as tf

from longtail_tf.errors import UserError


class Memory(NamedTuple):
    """The last Q embeddings, newest first."""

    embeddings: tf.Tensor  # float32 [Q, D], unit rows
    labels: tf.Tensor  # int64 [Q]
    filled: tf.Tensor  # bool [Q], false where nothing has been stored yet
    rows: tf.Tensor  # int64 [Q], the image each came from, -1 where that is not known


def empty_memory(size: int, dimension: int) -> Memory:
    """A memory of `size` places for embeddings of `dimension` numbers, with nothing stored.

    Raises:
      UserError: size below 1.
    """
    if size < 1:
        raise UserError(f"a memory of {size} places was asked for: give at least 1.")
    return Memory(
        embeddings=tf.zeros([size, dimension]),
        labels=tf.zeros([size], tf.int64),
        filled=tf.zeros([size], tf.bool),
        rows=tf.fill([size], tf.constant(-1, tf.int64)),
    )


def enqueue(
    memory: Memory, labels: Any, embeddings: Any, source_rows: Optional[Any] = None
) -> Memory:
    """The memory with a batch stored in front and the oldest places dropped.

    Args:
      memory: before the step.
      labels: int [B].
      embeddings: [B, D]; stored as unit float32 rows, without gradient.
      source_rows: int [B], the image each slot came from, at least 0; None if not known.
    """
    size = memory.labels.shape[0]
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
    rows = tf.fill(tf.shape(labels), tf.constant(-1, tf.int64))
    if source_rows is not None:
        rows = tf.cast(tf.reshape(source_rows, [-1]), tf.int64)
    unit = tf.math.l2_normalize(tf.cast(tf.stop_gradient(embeddings), tf.float32), axis=1)
    return Memory(
        tf.concat([unit, memory.embeddings], axis=0)[:size],
        tf.concat([labels, memory.labels], axis=0)[:size],
        tf.concat([tf.ones_like(labels, tf.bool), memory.filled], axis=0)[:size],
        tf.concat([rows, memory.rows], axis=0)[:size],
    )
