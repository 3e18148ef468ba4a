"""A metric loss against prototypes of all classes, and the running means they are."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.cosine_head import unit_vectors
from longtail_tf.errors import UserError
from longtail_tf.losses.names import check_number
from longtail_tf.losses.pair_masks import count
from longtail_tf.losses.triplet import checked_batch

_NEVER = -1e30


def prototype_loss(
    labels: Any, embeddings: Any, prototypes: Any, *, temperature: float
) -> tf.Tensor:
    """Mean softmax cross entropy of the cosines to the prototypes, over a temperature.

    The class mean takes the place of a classifier's weights (Snell 2017, equation 2,
    arXiv:1703.05175, with cosines). No gradient flows to the prototypes: `ema_prototypes` moves
    them. A prototype of length 0 is a class not seen yet: it is no candidate, and slots of that
    class do not count.

    Args:
      labels: int [B], 0 to C - 1.
      embeddings: float [B, D], of any length: they are scaled to unit length here.
      prototypes: float [C, D], of any length but 0.
      temperature: above 0.

    Returns:
      float32 scalar; 0 with zero gradient where no slot counts. Logits are [B, C]; for a C that
      forbids this, see `chunked_cross_entropy`.

    Raises:
      UserError: the temperature is out of range or the shapes do not fit.
    """
    check_number(temperature, "temperature", minimum=0.0, exclusive=True)
    labels, points, prototypes = _checked(labels, embeddings, prototypes)
    prototypes = tf.stop_gradient(unit_vectors(prototypes))
    seen = tf.reduce_any(prototypes != 0.0, axis=1)
    logits = tf.matmul(unit_vectors(points), prototypes, transpose_b=True) / temperature
    logits = tf.where(seen, logits, _NEVER)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    counted = tf.gather(seen, labels)
    return tf.reduce_sum(tf.where(counted, losses, 0.0)) / tf.maximum(count(counted), 1.0)


def ema_prototypes(prototypes: Any, labels: Any, embeddings: Any, *, momentum: float) -> tf.Tensor:
    """Moves the prototypes of a batch's classes towards the batch's class means.

    Each class in the batch becomes the unit vector along momentum * prototype + (1 - momentum) *
    mean, both of unit length before; a class not seen before (prototype 0) takes its mean as it is.
    The other classes stay as they are. No gradient flows.

    Args:
      prototypes: float [C, D], unit rows or 0.
      labels: int [B], 0 to C - 1.
      embeddings: float [B, D], of any length: they are scaled to unit length here.
      momentum: 0 (the batch's mean) to 1 (nothing moves).

    Returns:
      float32 [C, D], unit rows or 0.

    Raises:
      UserError: the momentum is out of range or the shapes do not fit.
    """
    if check_number(momentum, "momentum", minimum=0.0) > 1.0:
        raise UserError(f"momentum={momentum!r} was given: give 0 to 1.")
    labels, points, prototypes = _checked(labels, embeddings, prototypes)
    points, prototypes = tf.stop_gradient(unit_vectors(points)), tf.stop_gradient(prototypes)
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    means = unit_vectors(tf.matmul(tf.cast(same, tf.float32), points))
    before = tf.gather(prototypes, labels)
    unseen = tf.reduce_all(before == 0.0, axis=1, keepdims=True)
    moved = tf.where(unseen, means, unit_vectors(momentum * before + (1.0 - momentum) * means))
    # Slots of one class must write the same bits, as the last to write stays.
    slots = tf.range(tf.shape(labels)[0])
    first = tf.reduce_min(tf.where(same, slots[tf.newaxis, :], slots.dtype.max), axis=1)
    return tf.tensor_scatter_nd_update(prototypes, labels[:, tf.newaxis], tf.gather(moved, first))


def _checked(labels: Any, embeddings: Any, prototypes: Any) -> tuple:
    labels, points, _ = checked_batch(labels, embeddings, None)
    prototypes = tf.cast(prototypes, tf.float32)
    if prototypes.shape.rank != 2 or not points.shape[1:].is_compatible_with(prototypes.shape[1:]):
        raise UserError(
            f"prototypes of shape {prototypes.shape} came with embeddings of shape {points.shape}: "
            "give prototypes [C, D], one row a class, as long as an embedding."
        )
    return tf.cast(labels, tf.int32), points, prototypes
