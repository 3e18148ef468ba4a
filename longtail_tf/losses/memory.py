"""Cross-batch memory: the embeddings of the last batches as further pairs for a metric loss.

Wang 2020, section 3.2, arXiv:1912.06798. A memory is a plain tuple of tensors: keep it in variables
of the model, so that checkpoints hold it, and assign what `enqueue` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


def enqueue(memory: Memory, labels: Any, embeddings: Any, source_rows: Any | None = None) -> Memory:
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


class RememberingLoss:
    """A metric loss (labels, features, source rows) -> scalar with a memory of earlier batches.

    Each call compares the batch with itself and with the memory, then stores it. Make it under the
    strategy that trains. Under several replicas every one must bring the whole global batch
    (`mine="global"`), so that all store the same.

    Args:
      loss: of `losses.metric_loss`, one that takes a memory.
      size: embeddings remembered, at least 1.
      dimension: length of an embedding.

    Attributes:
      state: the memory as a trackable, for checkpoints. It is no weight of the network.

    Raises:
      UserError: size below 1.
    """

    def __init__(self, loss: Callable[..., tf.Tensor], *, size: int, dimension: int) -> None:
        self._loss = loss
        self._variables = {
            name: tf.Variable(
                value,
                trainable=False,
                name=f"memory_{name}",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,  # all store alike
            )
            for name, value in empty_memory(size, dimension)._asdict().items()
        }
        self.state = tf.train.Checkpoint(**self._variables)

    @property
    def memory(self) -> Memory:
        """What is remembered now."""
        return Memory(**{n: tf.convert_to_tensor(v) for n, v in self._variables.items()})

    def __call__(self, labels: tf.Tensor, features: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The loss of a batch against itself and the memory as it was before."""
        memory = self.memory
        loss = self._loss(labels, features, rows, memory=memory)
        for name, value in enqueue(memory, labels, features, rows)._asdict().items():
            self._variables[name].assign(value)
        return loss
