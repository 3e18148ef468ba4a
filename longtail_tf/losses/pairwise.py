"""Pairwise distances inside a batch, and the gradient of a weighted sum of them.

Everything here is written so that the numbers are bit for bit those of tensorflow-addons 0.23
(`metric_learning.pairwise_distance`, `angular_distance`): which negative is nearest, and which
ones tie, depends on the last bit.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

LARGEST_INT = 2**31 - 1


class Products(NamedTuple):
    """What the distances of some anchors to the whole batch are made of."""

    dots: tf.Tensor  # [R, B], the matrix product
    row_squares: tf.Tensor  # [R, 1]
    column_squares: tf.Tensor  # [1, B]
    some_anchors: Optional[tf.Tensor] = None  # int32 [R, 1], slots of the rows; None for all

    @property
    def anchors(self) -> tf.Tensor:
        """Slots of the rows, int32 [R, 1]."""
        if self.some_anchors is not None:
            return self.some_anchors
        return tf.range(tf.shape(self.dots)[0])[:, tf.newaxis]


class Classes(NamedTuple):
    """Which slots of a batch share a class."""

    ids: tf.Tensor  # int32 [B], the first slot of the same class
    following: tf.Tensor  # int32 [B], the next slot of the same class, round the batch
    sizes: tf.Tensor  # int32 [B], slots of the same class


def unit_vectors(vectors: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Scaled to unit length along `axis`; a zero vector stays zero."""
    vectors = tf.cast(vectors, tf.float32)
    squared = tf.reduce_sum(tf.square(vectors), axis=axis, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared, 1e-12))


def products(points: tf.Tensor) -> Products:
    """Multiplies a batch with itself.

    Args:
      points: float32 [B, D]; unit rows for the angular distance.
    """
    transposed = tf.transpose(points)
    return Products(
        dots=tf.matmul(points, transposed),
        # Not one vector twice: summing along rows and along columns rounds differently, and
        # tensorflow-addons does both.
        row_squares=tf.reduce_sum(tf.square(points), axis=1, keepdims=True),
        column_squares=tf.reduce_sum(tf.square(transposed), axis=0, keepdims=True),
    )


def row_blocks(parts: Products, rows: int) -> list:
    """Cuts products into blocks of at most `rows` anchors; B must be known when tracing."""
    size = parts.dots.shape[0]
    anchors = parts.anchors
    return [
        Products(
            parts.dots[start : start + rows],
            parts.row_squares[start : start + rows],
            parts.column_squares,
            anchors[start : start + rows],
        )
        for start in range(0, size, rows)
    ]


def classes_of(labels: tf.Tensor) -> Classes:
    """Finds the slots that share a class, without sorting; labels [B] of any comparable type."""
    ids = _first_slots(labels)
    alike = ids[:, tf.newaxis] == ids[tf.newaxis, :]
    return Classes(
        ids=ids,
        following=following_slots(ids),
        sizes=tf.reduce_sum(tf.cast(alike, tf.int32), axis=1),
    )


def small_ids(labels: tf.Tensor) -> tf.Tensor:
    """Labels of any type as int32 [B], equal where the labels are."""
    if labels.dtype.is_integer and labels.dtype.size < 4:
        return tf.cast(labels, tf.int32)
    return labels if labels.dtype == tf.int32 else _first_slots(labels)


def following_slots(ids: tf.Tensor) -> tf.Tensor:
    """The next slot of the same class, round the batch, int32 [B]; the slot itself if alone."""
    size = tf.shape(ids)[0]
    slots = tf.range(size)
    ahead = slots[tf.newaxis, :] - slots[:, tf.newaxis]
    ahead = tf.where(ahead > 0, ahead, ahead + size)  # 1 .. B; the slot itself is B ahead
    alike = ids[:, tf.newaxis] == ids[tf.newaxis, :]
    following = slots + tf.reduce_min(tf.where(alike, ahead, LARGEST_INT), axis=1)
    return tf.where(following >= size, following - size, following)


def _first_slots(labels: tf.Tensor) -> tf.Tensor:
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    slots = tf.range(tf.shape(labels)[0])[tf.newaxis, :]
    return tf.reduce_min(tf.where(same, slots, LARGEST_INT), axis=1)


def distances(parts: Products, distance_metric: str) -> tf.Tensor:
    """Distances [R, B], never negative; from a slot to itself zero except for "angular"."""
    if distance_metric == "angular":
        return tf.maximum(1.0 - parts.dots, 0.0)
    squared = tf.maximum(parts.row_squares + parts.column_squares - 2.0 * parts.dots, 0.0)
    squared = tf.where(columns(parts.dots) != parts.anchors, squared, 0.0)
    if distance_metric == "squared-L2":
        return squared
    return tf.sqrt(squared)


def columns(matrix: tf.Tensor) -> tf.Tensor:
    """Slots of the columns, int32 [1, B]."""
    return tf.range(tf.shape(matrix)[1])[tf.newaxis, :]


def slope(between: tf.Tensor, distance_metric: str, dots: Optional[tf.Tensor] = None) -> tf.Tensor:
    """d distance / d squared distance, or / d minus dot product for "angular".

    Zero where the distance is zero: there the Euclidean distance has no gradient, and any other
    choice would be infinite. The angular one is cut off where a dot product exceeds 1.

    Args:
      between: distances of any shape.
      distance_metric: one of DISTANCE_METRICS.
      dots: dot products of the same shape, for "angular" only; without them a zero distance counts
        as cut off.
    """
    if distance_metric == "angular" and dots is not None:
        return tf.cast(dots <= 1.0, tf.float32)
    positive = between > 0.0
    if distance_metric == "L2":
        return tf.where(positive, 0.5 / tf.where(positive, between, 1.0), 0.0)
    return tf.cast(positive, tf.float32)


class Weighted(NamedTuple):
    """Weights on squared distances (or minus dot products) and what rows and columns sum to."""

    weights: tf.Tensor  # [B, B], not symmetric
    totals: tf.Tensor  # [B, 1], row sum + column sum; 0 for "angular", which needs none


def weighted(weights: tf.Tensor, slopes: tf.Tensor, distance_metric: str) -> Weighted:
    """Turns weights [B, B] on distances into weights on squared distances or dot products.

    Args:
      weights: d loss / d distance.
      slopes: of `slope`.
      distance_metric: one of DISTANCE_METRICS.
    """
    if distance_metric == "angular":
        return Weighted(weights * slopes, tf.zeros_like(weights[:, :1]))
    sloped = 2.0 * weights * slopes
    totals = tf.reduce_sum(sloped, axis=1) + tf.reduce_sum(sloped, axis=0)
    return Weighted(sloped, totals[:, tf.newaxis])


def point_gradient(points: tf.Tensor, loss: Weighted, distance_metric: str) -> tf.Tensor:
    """Gradient [B, D] by the points of a loss over distances: the second matrix product.

    Args:
      points: float32 [B, D], as given to `products`.
      loss: its weights.
      distance_metric: one of DISTANCE_METRICS.
    """
    pulled = tf.matmul(loss.weights + tf.transpose(loss.weights), points)
    return -pulled if distance_metric == "angular" else loss.totals * points - pulled


def listed_point_gradient(
    points: tf.Tensor, slots: tf.Tensor, sloped: tf.Tensor, distance_metric: str
) -> tf.Tensor:
    """As `point_gradient`, for the few distances of each anchor that have a weight.

    Args:
      points: float32 [B, D].
      slots: int32 [B, L], L known when tracing: the other end of each distance.
      sloped: float32 [B, L], weights * slopes.
      distance_metric: one of DISTANCE_METRICS.
    """
    size = tf.shape(points)[0]
    if distance_metric != "angular":
        sloped *= 2.0
    pulled = tf.zeros_like(points)
    # One list place at a time: [B, L, D] would be the largest tensor of the whole loss.
    for there, weight in zip(
        tf.unstack(slots, axis=1), tf.unstack(sloped[..., tf.newaxis], axis=1)
    ):
        pulled += tf.gather(points, there) * weight
        pulled += tf.math.unsorted_segment_sum(points * weight, there, size)
    if distance_metric == "angular":
        return -pulled
    received = tf.math.unsorted_segment_sum(tf.reshape(sloped, [-1]), tf.reshape(slots, [-1]), size)
    total = tf.reduce_sum(sloped, axis=1) + received
    return total[:, tf.newaxis] * points - pulled


def ordered_bits(values: tf.Tensor) -> tf.Tensor:
    """The bits of non-negative float32 numbers as int32, which keep their order.

    A compiler may split a minimum of integers over vector lanes but not one of floats, so row
    reductions over these run several times faster under XLA.
    """
    return tf.bitcast(values, tf.int32)


def row_max(bits: tf.Tensor) -> tf.Tensor:
    """Largest distance of each row, float32 [R, 1], from ordered bits [R, B]."""
    return tf.bitcast(tf.reduce_max(bits, axis=1, keepdims=True), tf.float32)


def row_min(bits: tf.Tensor, distance_metric: str) -> tf.Tensor:
    """Smallest distance of each row, float32 [R, 1], from ordered bits [R, B]."""
    if distance_metric != "angular":  # the diagonal
        return tf.zeros([tf.shape(bits)[0], 1])
    return tf.bitcast(tf.reduce_min(bits, axis=1, keepdims=True), tf.float32)


def count(condition: tf.Tensor) -> tf.Tensor:
    """True entries of each row, float32 [R, 1]."""
    return tf.cast(tf.reduce_sum(tf.cast(condition, tf.int32), axis=1, keepdims=True), tf.float32)
