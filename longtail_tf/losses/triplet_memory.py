"""Triplet losses whose positives and negatives may also lie in a cross-batch memory.

Wang 2020, section 3.2, arXiv:1912.06798. Anchors are the slots of the batch alone: what lies in the
memory has no gradient of its own. Temporaries are [B, B + Q]; with an empty memory the values are
those of `triplet`, and the gradients too unless distances tie (here one of them takes it all).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from longtail_tf.losses.memory import Memory
from longtail_tf.losses.pair_masks import count, joined_masks, joined_points
from longtail_tf.losses.triplet import check_settings, checked_batch


def triplet_semihard_memory_loss(
    labels: Any,
    embeddings: Any,
    memory: Memory,
    *,
    margin: float,
    distance_metric: str = "L2",
    source_rows: Any = None,
) -> tf.Tensor:
    """As `triplet.triplet_semihard_loss`, pairs with the memory included; O(B (B + Q) log(B + Q)).

    Args:
      labels: class of each slot, int [B].
      embeddings: unit rows [B, D], as those in the memory are.
      memory: embeddings of earlier batches.
      margin: at least 0, in units of the distance.
      distance_metric: "L2", "squared-L2" or "angular".
      source_rows: int [B]; a slot or place of the anchor's own image is no pair.

    Returns:
      float32 scalar; 0 with zero gradient where there is no positive pair.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    between, positive, negative = _pairs(
        labels, embeddings, memory, margin, distance_metric, source_rows
    )
    fixed = tf.stop_gradient(between)
    distance = tf.where(negative, fixed, float("inf"))
    order = tf.argsort(distance, axis=1)
    ordered = tf.gather(distance, order, batch_dims=1)
    # The first negative beyond each distance; where there is none, the last, which is the farthest.
    negatives = tf.reduce_sum(tf.cast(negative, tf.int32), axis=1, keepdims=True)
    place = tf.minimum(tf.searchsorted(ordered, fixed, side="right"), negatives - 1)
    chosen = tf.gather(order, tf.maximum(place, 0), batch_dims=1)
    to_negative = tf.where(negatives > 0, tf.gather(between, chosen, batch_dims=1), 0.0)
    losses = tf.where(positive, tf.maximum(margin + between - to_negative, 0.0), 0.0)
    return tf.reduce_sum(losses) / tf.maximum(count(positive), 1.0)


def triplet_hard_memory_loss(
    labels: Any,
    embeddings: Any,
    memory: Memory,
    *,
    margin: float,
    soft: bool = False,
    distance_metric: str = "L2",
    source_rows: Any = None,
) -> tf.Tensor:
    """As `triplet.triplet_hard_loss`, pairs with the memory included.

    Args:
      labels, embeddings, memory, margin, distance_metric, source_rows: as in
        `triplet_semihard_memory_loss`.
      soft: log(1 + exp(positive - negative)) in place of the hinge.

    Returns:
      float32 scalar; 0 for an empty batch.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    between, positive, negative = _pairs(
        labels, embeddings, memory, margin, distance_metric, source_rows
    )
    farthest = tf.reduce_max(tf.where(positive, between, 0.0), axis=1)
    nearest = tf.reduce_min(tf.where(negative, between, float("inf")), axis=1)
    largest = tf.reduce_max(tf.where(positive | negative, between, 0.0), axis=1)
    nearest = tf.where(tf.reduce_any(negative, axis=1), nearest, largest)
    gap = farthest - nearest
    losses = tf.math.softplus(gap) if soft else tf.maximum(gap + margin, 0.0)
    size = tf.maximum(tf.cast(tf.shape(losses)[0], tf.float32), 1.0)
    return tf.reduce_sum(losses) / size


class _Pairs(NamedTuple):
    between: tf.Tensor  # float32 [B, B + Q]
    positive: tf.Tensor  # bool, the same shape
    negative: tf.Tensor


def _pairs(
    labels: Any,
    embeddings: Any,
    memory: Memory,
    margin: float,
    distance_metric: str,
    source_rows: Any,
) -> _Pairs:
    check_settings(margin, distance_metric, None)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    points = tf.cast(points, tf.float32)
    if distance_metric == "angular":
        points = tf.math.l2_normalize(points, axis=1)
    keys = joined_points(points, memory)
    return _Pairs(
        _distances(points, keys, distance_metric), *joined_masks(labels, source_rows, memory)
    )


def _distances(points: tf.Tensor, keys: tf.Tensor, distance_metric: str) -> tf.Tensor:
    dots = tf.matmul(points, keys, transpose_b=True)
    if distance_metric == "angular":
        return tf.maximum(1.0 - dots, 0.0)
    squares = tf.reduce_sum(tf.square(points), axis=1, keepdims=True)
    key_squares = tf.reduce_sum(tf.square(keys), axis=1)
    squared = tf.maximum(squares + key_squares[tf.newaxis, :] - 2.0 * dots, 0.0)
    if distance_metric == "squared-L2":
        return squared
    apart = squared > 0.0  # the root has no finite gradient at 0
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, 1.0)), 0.0)
