"""Further metric losses of tensorflow-addons, brought to labels and embeddings.

Only those whose inputs a batch of labels and embeddings can give. tensorflow-addons is imported
when a loss is chosen, not before.
"""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.losses import pairwise
from longtail_tf.losses.pair_masks import count, pair_masks, partners
from longtail_tf.losses.triplet import checked_batch


def tfa_loss(name: str, *, margin: float, distance_metric: str, temperature: float) -> Callable:
    """A loss of tensorflow-addons as a function (labels [B], embeddings [B, D], source rows).

    - "tfa_npairs" (Sohn 2016): on the cosines of the batch with itself, over `temperature`. Every
      slot is one of its own positives. 0 for a batch of fewer than two slots.
    - "tfa_lifted_struct" (Song 2016, arXiv:1511.06452): on Euclidean distances, O(B^3) time and
      memory. 0 where there is no positive or no negative pair, for which it would be NaN.
    - "tfa_contrastive" (Hadsell 2006): the mean over all pairs; 0 without any.

    Only the last can leave out slots of one image; `source_rows` has no effect on the others.

    Raises:
      UserError: tensorflow-addons cannot be imported.
    """
    addons = quiet_imports.tensorflow_addons().losses

    def loss(labels: Any, embeddings: Any, source_rows: Any = None) -> tf.Tensor:
        labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
        points = tf.cast(points, tf.float32)
        if name == "tfa_contrastive":
            positive, negative = pair_masks(partners(labels, points, source_rows))
            pair = positive | negative
            distances = tf.where(pair, pairwise.distances(points, distance_metric), 0.0)
            losses = addons.contrastive_loss(positive, distances, margin)
            return tf.reduce_sum(tf.where(pair, losses, 0.0)) / tf.maximum(count(pair), 1.0)
        if name == "tfa_npairs":

            def of_points(points: tf.Tensor) -> tf.Tensor:
                units = pairwise.unit_vectors(points)
                cosines = tf.matmul(units, units, transpose_b=True)
                return addons.npairs_loss(labels, cosines / temperature)

            return _where(tf.shape(points)[0] > 1, of_points, points)
        positive, negative = pair_masks(partners(labels, points))
        usable = tf.reduce_any(positive) & tf.reduce_any(negative)
        return _where(usable, lambda p: addons.lifted_struct_loss(labels, p, margin), points)

    return loss


def _where(usable: tf.Tensor, function: Callable, points: tf.Tensor) -> tf.Tensor:
    """function(points) where it is usable, else 0, and neither takes a NaN from the other.

    Not a tf.cond, whose gradient through tensorflow-addons does not compile under XLA.
    """
    if points.shape[0] == 0:  # XLA fails on the softmax of no rows
        return tf.reduce_sum(points)

    @tf.custom_gradient
    def of_points(points: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = function(points)
        gradient = tf.where(usable, tape.gradient(value, points), 0.0)
        return tf.where(usable, value, 0.0), lambda upstream: upstream * gradient

    return of_points(points)
