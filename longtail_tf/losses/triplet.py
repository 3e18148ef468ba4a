"""Triplet losses in O(B^2) time and memory: semi-hard and batch-hard."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import triplet_mining
from longtail_tf.losses.checks import check_name, check_number
from longtail_tf.losses.memory import Memory
from longtail_tf.settings.choices import DISTANCE_METRICS


def triplet_semihard_loss(
    labels: Any,
    embeddings: Any,
    *,
    margin: float = 1.0,
    distance_metric: str = "L2",
    source_rows: Any = None,
    memory: Memory | None = None,
) -> tf.Tensor:
    """Triplet loss with semi-hard negatives, averaged over all ordered positive pairs.

    For each (anchor, positive) the negative is the nearest one farther than the positive, or the
    farthest negative where there is none (Schroff 2015, section 3.2, arXiv:1503.03832). Of equally
    near negatives any is taken. Pairs without loss count in the mean. An anchor without a negative
    takes distance 0 for it, as in tensorflow-addons.

    Args:
      labels: class of each slot, int [B].
      embeddings: [B, D], any floating point; the loss is computed in float32 and cast back.
      margin: distance by which a negative should be farther than the positive, in units of the
        distance metric, at least 0. 1.0 is tensorflow-addons' default; for unit-length embeddings
        it is wide: 0.1 to 0.5 suits them.
      distance_metric: "L2", "squared-L2", or "angular" (1 - cosine).
      source_rows: int [B], the image each slot came from, at least 0; two slots of the same image
        are no positive pair (they are no negatives either).
      memory: embeddings of earlier batches, unit rows, as further positives and negatives without a
        gradient of their own (Wang 2020, section 3.2, arXiv:1912.06798); None for none.

    Returns:
      Scalar of the embeddings' dtype; 0 with zero gradient where there is no positive pair.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    return _loss(labels, embeddings, source_rows, memory, margin, distance_metric, semihard=True)


def triplet_hard_loss(
    labels: Any,
    embeddings: Any,
    *,
    margin: float = 1.0,
    soft: bool = False,
    distance_metric: str = "L2",
    source_rows: Any = None,
    memory: Memory | None = None,
) -> tf.Tensor:
    """Batch-hard triplet loss: farthest positive against nearest negative, mean over anchors.

    Hermans 2017, section 2, arXiv:1703.07737. As in tensorflow-addons, an anchor without a positive
    counts with positive distance 0, and one without a negative with the margin alone.

    Args:
      labels, embeddings, distance_metric, source_rows, memory: as in `triplet_semihard_loss`.
      margin: as there; not used if `soft`.
      soft: log(1 + exp(positive - negative)) in place of the hinge; never overflows.

    Returns:
      Scalar of the embeddings' dtype; 0 for an empty batch.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    return _loss(
        labels, embeddings, source_rows, memory, margin, distance_metric, semihard=False, soft=soft
    )


def check_settings(margin: Any, distance_metric: Any) -> None:
    """Refuses settings out of range.

    Raises:
      UserError: says which one and what it may be.
    """
    check_name(distance_metric, DISTANCE_METRICS, "distance_metric")
    if not tf.is_tensor(margin):
        check_number(margin, "margin", minimum=0.0)


def checked_batch(labels: Any, embeddings: Any, source_rows: Any) -> tuple:
    """Labels int64 [B], embeddings [B, D] and source rows [B] (or None) as tensors.

    Raises:
      UserError: the types or the shapes known so far do not fit.
    """
    points = tf.convert_to_tensor(embeddings)
    labels = tf.reshape(tf.convert_to_tensor(labels), [-1])
    if labels.dtype == tf.string:
        raise UserError("labels that are text came: give a whole number for each class.")
    labels = tf.cast(labels, tf.int64)
    if points.shape.rank not in (None, 2) or not points.dtype.is_floating:
        raise UserError(
            f"embeddings of shape {points.shape} and type {points.dtype.name} came: a metric loss "
            "needs floating point embeddings [B, D], one row a slot."
        )
    if not points.shape[:1].is_compatible_with(labels.shape):
        raise UserError(
            f"{labels.shape[0]} labels came with {points.shape[0]} embeddings: give one label for "
            "each row."
        )
    if source_rows is not None:
        source_rows = tf.reshape(tf.convert_to_tensor(source_rows), [-1])
        if not source_rows.shape.is_compatible_with(labels.shape):
            raise UserError(
                f"{source_rows.shape[0]} source rows came with {labels.shape[0]} labels: give one "
                "source row a slot, or None."
            )
    return labels, points, source_rows


def _loss(
    labels: Any,
    embeddings: Any,
    source_rows: Any,
    memory: Memory | None,
    margin: Any,
    distance_metric: str,
    **mining: bool,
) -> tf.Tensor:
    check_settings(margin, distance_metric)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    mine = _compiled(distance_metric, **mining)

    @tf.custom_gradient
    def of_points(points: tf.Tensor) -> tuple:
        # Stopped, or tapes would go on to derive the mining itself.
        fixed = tf.stop_gradient(points)
        value, gradient = mine(labels, fixed, source_rows, memory, tf.cast(margin, tf.float32))
        gradient = tf.stop_gradient(tf.cast(gradient, points.dtype))
        return value, lambda upstream: tf.cast(upstream, points.dtype) * gradient

    exact = tf.cast(points, tf.float64)
    if distance_metric == "angular":
        exact = tf.math.l2_normalize(exact, axis=1)
    return tf.cast(of_points(exact), points.dtype)


@functools.cache
def _compiled(distance_metric: str, *, semihard: bool, soft: bool = False) -> Callable:
    """The mining for one choice of static settings; made once, so that steps never retrace."""
    mine = functools.partial(
        triplet_mining.loss_and_gradient,
        distance_metric=distance_metric,
        semihard=semihard,
        soft=soft,
    )
    return tf.function(mine, jit_compile=True, reduce_retracing=True, autograph=False)
