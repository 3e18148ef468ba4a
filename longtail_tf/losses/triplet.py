"""Triplet losses in O(B^2) memory with the values and gradients of tensorflow-addons 0.23."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import hard_mining, pairwise, semihard
from longtail_tf.losses.checks import check_name, check_number
from longtail_tf.settings.choices import DISTANCE_METRICS


def triplet_semihard_loss(
    labels: Any,
    embeddings: Any,
    *,
    margin: float = 1.0,
    distance_metric: str = "L2",
    source_rows: Any = None,
    images_per_class: Optional[int] = None,
) -> tf.Tensor:
    """Triplet loss with semi-hard negatives, averaged over all ordered positive pairs.

    For each (anchor, positive) the negative is the nearest one strictly farther than the positive,
    or the farthest negative where there is none (Schroff 2015, section 3.2, arXiv:1503.03832).
    Zero-loss pairs count in the mean. An anchor without any negative takes distance 0 for it, as
    in tensorflow-addons. Exact ties share the gradient.

    Args:
      labels: class of each slot, [B].
      embeddings: [B, D]; float16 and bfloat16 are computed in float32 and the loss is cast back.
      margin: distance by which a negative should be farther than the positive, in units of the
        distance metric, at least 0. 1.0 is tensorflow-addons' default; for unit-length embeddings
        it is wide: 0.1 to 0.5 suits them.
      distance_metric: "L2", "squared-L2", or "angular" (1 - cosine).
      source_rows: int [B], the image each slot came from; two slots of the same image are no
        positive pair (they are no negatives either).
      images_per_class: K, if no class has more than K slots in a batch, as in PK batches. It only
        chooses the code: without it, and where it does not hold, the answer is the same.

    Returns:
      Scalar of the embeddings' dtype; 0 with zero gradient where there is no positive pair.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    check_settings(margin, distance_metric, images_per_class)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    loss = semihard.loss_function(distance_metric, images_per_class, points.shape[0])(
        labels, _precise(points), source_rows, tf.convert_to_tensor(margin, tf.float32)
    )
    return tf.cast(loss, points.dtype)


def triplet_hard_loss(
    labels: Any,
    embeddings: Any,
    *,
    margin: float = 1.0,
    soft: bool = False,
    distance_metric: str = "L2",
    source_rows: Any = None,
) -> tf.Tensor:
    """Batch-hard triplet loss: farthest positive against nearest negative, mean over anchors.

    Hermans 2017, section 2, arXiv:1703.07737. As in tensorflow-addons, an anchor without a positive
    counts with positive distance 0, and one without a negative with its largest distance.

    Args:
      labels: class of each slot, [B].
      embeddings: [B, D]; float16 and bfloat16 are computed in float32 and the loss is cast back.
      margin: as in `triplet_semihard_loss`; not used if `soft`.
      soft: log(1 + exp(positive - negative)) in place of the hinge; never overflows.
      distance_metric: "L2", "squared-L2", or "angular" (1 - cosine).
      source_rows: int [B]; two slots of the same image are no positive pair.

    Returns:
      Scalar of the embeddings' dtype; 0 for an empty batch.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    check_settings(margin, distance_metric, None)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    loss = _traced_hard(distance_metric, bool(soft))(
        labels, _precise(points), source_rows, tf.convert_to_tensor(margin, tf.float32)
    )
    return tf.cast(loss, points.dtype)


def check_settings(margin: Any, distance_metric: Any, images_per_class: Any) -> None:
    """Refuses settings out of range.

    Raises:
      UserError: says which one and what it may be.
    """
    check_name(distance_metric, DISTANCE_METRICS, "distance_metric")
    if not tf.is_tensor(margin):
        check_number(margin, "margin", minimum=0.0)
    if images_per_class is not None and (
        isinstance(images_per_class, bool)
        or not isinstance(images_per_class, int)
        or images_per_class < 2
    ):
        raise UserError(
            f"images_per_class={images_per_class!r} was given: a PK batch needs a whole number of "
            "at least 2 images of each class, or None if the batch is not PK."
        )


def checked_batch(labels: Any, embeddings: Any, source_rows: Any) -> tuple:
    """Labels [B], embeddings [B, D] and source rows [B] (or None) as tensors.

    Raises:
      UserError: the shapes known so far do not fit.
    """
    points = tf.convert_to_tensor(embeddings)
    labels = tf.reshape(tf.convert_to_tensor(labels), [-1])
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


def _precise(points: tf.Tensor) -> tf.Tensor:
    return tf.cast(points, tf.float32)


@functools.cache
def _traced_hard(distance_metric: str, soft: bool) -> Callable:
    """The batch-hard loss for one choice of static settings; made once, so steps never retrace."""
    mine = tf.function(
        functools.partial(hard_mining.mine, distance_metric=distance_metric, soft=soft),
        jit_compile=True,
        reduce_retracing=True,
        autograph=False,
    )

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
            value, weights = mine(pairwise.products(points), labels, source_rows, margin)
            # Stopped, or graphs would carry the derivatives of the mining for a second gradient.
            gradient = tf.stop_gradient(pairwise.point_gradient(points, weights, distance_metric))
            return value, lambda upstream: upstream * gradient

        return of_points(points)

    return tf.function(loss, reduce_retracing=True, autograph=False)
