"""The one normalisation of vectors, and distances between all pairs of two sets of them."""

from __future__ import annotations

import tensorflow as tf


def unit_vectors(vectors: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Scaled to unit length along `axis`; a zero vector stays zero."""
    vectors = tf.cast(vectors, tf.float32)
    squared = tf.reduce_sum(tf.square(vectors), axis=axis, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared, 1e-12))


def distances(points: tf.Tensor, distance_metric: str) -> tf.Tensor:
    """Distances between the rows of a batch, never negative.

    Args:
      points: float32 [B, D]; the angular distance scales them to unit length itself.
      distance_metric: "L2", "squared-L2" or "angular" (1 - cosine).

    Returns:
      float32 [B, B], on whose diagonal is noise near 0. The gradient is finite everywhere: where a
      Euclidean distance is 0 it is 0.
    """
    if distance_metric == "angular":
        points = unit_vectors(points)
    dots = tf.matmul(points, points, transpose_b=True)
    if distance_metric == "angular":
        return tf.maximum(1.0 - dots, 0.0)
    squares = tf.reduce_sum(tf.square(points), axis=1, keepdims=True)
    squared = tf.maximum(squares + tf.transpose(squares) - 2.0 * dots, 0.0)
    if distance_metric == "squared-L2":
        return squared
    apart = squared > 0.0
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, 1.0)), 0.0)
