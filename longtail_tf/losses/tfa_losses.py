"""Further metric losses of tensorflow-addons, brought to labels and embeddings.

Only those whose inputs a batch of labels and embeddings can give. tensorflow-addons is imported
when a loss is chosen, not before.
"""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.losses import pairwise
from longtail_tf.losses.pair_masks import count, pair_masks
from longtail_tf.losses.pairwise import unit_vectors
from longtail_tf.losses.triplet import checked_batch


def npairs(*, temperature: float) -> Callable:
    """N-pairs loss (Sohn 2016) on the cosines of a batch with itself, over `temperature`.

    Every slot counts as one of its own positives, as in tensorflow-addons on a similarity matrix of
    a batch with itself. Slots of one image cannot be masked: `source_rows` has no effect. 0 for a
    batch of fewer than two slots.
    """
    of_similarity = quiet_imports.tensorflow_addons().losses.npairs_loss

    def loss(labels: Any, embeddings: Any, source_rows: Any = None) -> tf.Tensor:
        labels, points, _ = checked_batch(labels, embeddings, source_rows)

        def value(points: tf.Tensor) -> tf.Tensor:
            units = unit_vectors(points)
            similarity = tf.matmul(units, units, transpose_b=True) / temperature
            return of_similarity(labels, similarity)

        return _where(tf.shape(points)[0] > 1, value, points)

    return loss


def lifted_struct(*, margin: float) -> Callable:
    """Lifted structured loss (Song 2016, arXiv:1511.06452) on Euclidean distances.

    O(B^3) time and memory, as tensorflow-addons wrote it: 67 MB a temporary at B = 256. Slots of
    one image cannot be masked: `source_rows` has no effect. 0 where there is no positive or no
    negative pair; tensorflow-addons gives NaN there.
    """
    of_embeddings = quiet_imports.tensorflow_addons().losses.lifted_struct_loss

    def loss(labels: Any, embeddings: Any, source_rows: Any = None) -> tf.Tensor:
        labels, points, _ = checked_batch(labels, embeddings, source_rows)
        positive, negative = pair_masks(labels, None)
        usable = tf.reduce_any(positive) & tf.reduce_any(negative)
        return _where(usable, lambda points: of_embeddings(labels, points, margin), points)

    return loss


def contrastive(*, margin: float, distance_metric: str) -> Callable:
    """Contrastive loss (Hadsell 2006), the mean over all pairs of a batch.

    tensorflow-addons is handed a list of pairs, so slots of one image are left out of it. 0 where
    there is no pair.
    """
    of_distances = quiet_imports.tensorflow_addons().losses.contrastive_loss

    def loss(labels: Any, embeddings: Any, source_rows: Any = None) -> tf.Tensor:
        labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
        positive, negative = pair_masks(labels, source_rows)
        pair = positive | negative
        losses = of_distances(
            positive, _distances(tf.cast(points, tf.float32), pair, distance_metric), margin
        )
        return tf.reduce_sum(tf.where(pair, losses, 0.0)) / tf.maximum(count(pair), 1.0)

    return loss


def _where(usable: tf.Tensor, function: Callable, points: tf.Tensor) -> tf.Tensor:
    """function(points) where it is usable, else 0, and neither takes a NaN from the other.

    Not a tf.cond, whose gradient through tensorflow-addons does not compile under XLA.
    """

    @tf.custom_gradient
    def of_points(points: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = function(points)
        gradient = tf.where(usable, tape.gradient(value, points), 0.0)
        return tf.where(usable, value, 0.0), lambda upstream: upstream * gradient

    points = tf.cast(points, tf.float32)
    if points.shape[0] == 0:  # XLA fails on the softmax of no rows
        return tf.reduce_sum(points)
    return of_points(points)


def _distances(points: tf.Tensor, pair: tf.Tensor, distance_metric: str) -> tf.Tensor:
    """Distances [B, B] whose gradient is 0, not NaN, where they are 0; 0 off the pairs."""
    if distance_metric == "angular":
        points = unit_vectors(points)
        return tf.where(pair, tf.maximum(1.0 - tf.matmul(points, points, transpose_b=True), 0.0), 0)
    squared = pairwise.distances(pairwise.products(points), "squared-L2")
    if distance_metric == "squared-L2":
        return tf.where(pair, squared, 0.0)
    apart = pair & (squared > 0.0)
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, 1.0)), 0.0)
