"""The semi-hard triplet loss and its gradient, by the cheapest exact way for the batch."""

from __future__ import annotations

import functools
from typing import Callable, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise, semihard_list, semihard_matrix

_SMALL_BATCH = 256  # slots; up to here one pass over the matrix is cheaper than lists
_BLOCK_ROWS = 512  # few blocks compile faster, small ones take less memory
_LISTED_POSITIVES = (3, 7)  # list lengths tried when the largest class is not known beforehand


def loss_function(
    distance_metric: str, images_per_class: Optional[int], size: Optional[int]
) -> Callable:
    """The loss as a function (labels, points, source_rows, margin) -> scalar float32.

    Args:
      distance_metric: one of DISTANCE_METRICS.
      images_per_class: most slots of one class in a batch, if known.
      size: slots in a batch, if known; large batches are faster then.
    """
    small = size is None or size <= _SMALL_BATCH
    return _traced(distance_metric, images_per_class, None if small else size)


# Kept for each choice of static settings, so that training steps never retrace; one trace serves
# all small batches, while a large size has a function of its own.
@functools.lru_cache(maxsize=64)
def _traced(distance_metric: str, images_per_class: Optional[int], size: Optional[int]) -> Callable:
    # Mining is compiled on its own: its passes over the distances fuse into a few loops. The matrix
    # products stay outside, where their rounding is that of tensorflow-addons.
    classes_of = _compiled(pairwise.classes_of)
    mine = _compiled(functools.partial(semihard_matrix.mine, distance_metric=distance_metric))
    miners = {
        most: _compiled(
            functools.partial(semihard_list.mine, distance_metric=distance_metric, positives=most)
        )
        for most in ((images_per_class - 1,) if images_per_class else _LISTED_POSITIVES)
    }

    def by_matrix(points: tf.Tensor, labels: tf.Tensor, *options: tf.Tensor) -> tuple:
        value, weights = mine(pairwise.products(points), labels, *options)
        return value, pairwise.point_gradient(points, weights, distance_metric)

    def by_list(
        most: int,
        classes: pairwise.Classes,
        points: tf.Tensor,
        *options: tf.Tensor,
    ) -> tuple:
        blocks = pairwise.row_blocks(pairwise.products(points), _BLOCK_ROWS)
        mined = semihard_list.join([miners[most](block, classes, *options) for block in blocks])
        listed = functools.partial(
            pairwise.listed_point_gradient, points, distance_metric=distance_metric
        )
        scale = 1.0 / tf.maximum(mined.pairs, 1.0)
        gradient = listed(mined.slots, scale * mined.sloped) + tf.cond(
            tf.reduce_any(mined.tied_sloped != 0.0),
            lambda: listed(mined.tied_slots, scale * mined.tied_sloped),
            lambda: tf.zeros_like(points),
        )
        return mined.exact, (scale * mined.loss_sum, gradient)

    def value_and_gradient(points: tf.Tensor, labels: tf.Tensor, *options: tf.Tensor) -> tuple:
        whole = functools.partial(by_matrix, points, labels, *options)
        if size is None or size > semihard_list.MOST_SLOTS or min(miners) > max(_LISTED_POSITIVES):
            return whole()
        classes = classes_of(labels)
        largest = tf.reduce_max(classes.sizes)

        def nothing() -> tuple:
            return tf.constant(False), (tf.zeros([]), tf.zeros_like(points))

        way = nothing
        for most in sorted(miners, reverse=True):
            this = functools.partial(by_list, most, classes, points, *options)
            way = functools.partial(tf.cond, largest <= most + 1, this, way)
        exact, result = way()
        return tf.cond(exact, lambda: result, whole)

    def loss(
        labels: tf.Tensor,
        points: tf.Tensor,
        source_rows: Optional[tf.Tensor],
        margin: tf.Tensor,
    ) -> tf.Tensor:
        if distance_metric == "angular":
            points = tf.math.l2_normalize(points, axis=1)

        @tf.custom_gradient
        def of_points(points: tf.Tensor) -> tuple:
            value, gradient = value_and_gradient(points, labels, source_rows, margin)
            # Stopped, or graphs would carry the derivatives of the mining for a second gradient.
            gradient = tf.stop_gradient(gradient)
            return value, lambda upstream: upstream * gradient

        return of_points(points)

    return tf.function(loss, reduce_retracing=True, autograph=False)


def _compiled(function: Callable) -> Callable:
    return tf.function(function, jit_compile=True, reduce_retracing=True, autograph=False)
