"""Which pairs of slots in a batch are positive, and which negative."""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf


class PairMasks(NamedTuple):
    """Ordered pairs (anchor in the row, other slot in the column); neither holds the diagonal."""

    positive: tf.Tensor  # bool [B, B]: same class, another image
    negative: tf.Tensor  # bool [B, B]: another class


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


def count(mask: tf.Tensor) -> tf.Tensor:
    """True entries, float32 scalar; exact up to 2**31 of them."""
    return tf.cast(tf.math.count_nonzero(mask, dtype=tf.int32), tf.float32)
