"""Which pairs of slots in a batch are positive, and which negative."""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses.memory import Memory


class PairMasks(NamedTuple):
    """Ordered pairs (anchor in the row, other slot in the column); neither holds the diagonal."""

    positive: tf.Tensor  # bool [B, B] or [B, B + Q]: same class, another image
    negative: tf.Tensor  # the same shape: another class


def pair_masks(labels: tf.Tensor, source_rows: Optional[tf.Tensor]) -> PairMasks:
    """Finds the positive and negative pairs.

    Args:
      labels: class of each slot, [B], of any type.
      source_rows: int [B], the image each slot came from, or None if they all differ. Two slots of
        one image are neither positive nor negative: they would be alike whatever is learned.
    """
    same_class = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    if source_rows is None:
        slots = tf.range(tf.shape(labels)[0])
        other_image = slots[:, tf.newaxis] != slots[tf.newaxis, :]
    else:
        other_image = source_rows[:, tf.newaxis] != source_rows[tf.newaxis, :]
    return PairMasks(positive=same_class & other_image, negative=~same_class & other_image)


def joined_masks(
    labels: tf.Tensor, source_rows: Optional[tf.Tensor], memory: Optional[Memory]
) -> PairMasks:
    """As `pair_masks`, the places of a memory behind the slots: masks [B, B + Q].

    A place that holds an earlier view of the anchor's own image is in neither mask, as in the
    batch; nor is one where nothing has been stored yet.
    """
    inside = pair_masks(labels, source_rows)
    if memory is None:
        return inside
    same = tf.cast(labels, tf.int64)[:, tf.newaxis] == memory.labels[tf.newaxis, :]
    usable = tf.broadcast_to(memory.filled[tf.newaxis, :], tf.shape(same))
    if source_rows is not None:
        rows = tf.cast(source_rows, tf.int64)
        usable &= rows[:, tf.newaxis] != memory.rows[tf.newaxis, :]
    return PairMasks(
        positive=tf.concat([inside.positive, usable & same], axis=1),
        negative=tf.concat([inside.negative, usable & ~same], axis=1),
    )


def joined_points(points: tf.Tensor, memory: Optional[Memory]) -> tf.Tensor:
    """The embeddings that `joined_masks` has columns for, [B + Q, D]."""
    if memory is None:
        return points
    return tf.concat([points, tf.stop_gradient(memory.embeddings)], axis=0)


def count(mask: tf.Tensor) -> tf.Tensor:
    """True entries, float32 scalar; exact up to 2**31 of them."""
    return tf.cast(tf.math.count_nonzero(mask, dtype=tf.int32), tf.float32)
