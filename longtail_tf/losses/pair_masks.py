"""Which pairs are positive and which negative, in a batch and in a cross-batch memory."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from longtail_tf.losses.memory import Memory


class PairMasks(NamedTuple):
    """Ordered pairs: anchor in the row, partner in the column. An anchor is in neither mask itself,
    nor is another view of its own image: they would be alike whatever is learned."""

    positive: tf.Tensor  # bool [R, B + Q]: same class, another image
    negative: tf.Tensor  # the same shape: another class, another image


def partners(
    labels: tf.Tensor,
    points: tf.Tensor,
    source_rows: tf.Tensor | None = None,
    memory: Memory | None = None,
) -> Memory:
    """What the slots of a batch are compared with: each other, and behind them a memory's places.

    Args:
      labels: class of each slot, int64 [B].
      points: float [B, D].
      source_rows: int [B], the image each slot came from, at least 0; None if they all differ.
      memory: Q embeddings of earlier batches, which get no gradient; None for none.

    Returns:
      B + Q of them.
    """
    different = -2 - tf.range(tf.shape(labels)[0])  # numbers that nothing else has
    rows = different if source_rows is None else source_rows
    batch = Memory(points, labels, tf.ones_like(labels, tf.bool), tf.cast(rows, tf.int64))
    if memory is None:
        return batch
    stored = memory._replace(embeddings=tf.cast(tf.stop_gradient(memory.embeddings), points.dtype))
    return Memory(*(tf.concat(parts, axis=0) for parts in zip(batch, stored)))


def pair_masks(compared: Memory, anchors: tf.Tensor | None = None) -> PairMasks:
    """Finds the positive and negative pairs of some anchors.

    Args:
      compared: of `partners`.
      anchors: int32 [R], places in it; None for all.
    """
    labels, rows = compared.labels, compared.rows
    if anchors is not None:
        labels, rows = tf.gather(labels, anchors), tf.gather(rows, anchors)
    same = labels[:, tf.newaxis] == compared.labels
    usable = (rows[:, tf.newaxis] != compared.rows) & compared.filled
    return PairMasks(positive=usable & same, negative=usable & ~same)


def count(mask: tf.Tensor) -> tf.Tensor:
    """True entries, float32 scalar; exact up to 2**31 of them."""
    return tf.cast(tf.math.count_nonzero(mask, dtype=tf.int32), tf.float32)
