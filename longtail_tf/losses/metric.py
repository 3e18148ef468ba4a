"""The metric loss that the settings name."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional

import tensorflow as tf

from longtail_tf import quiet_imports
from longtail_tf.losses import contrastive, triplet
from longtail_tf.losses.names import METRIC_LOSSES, check_name, check_number

# (labels int [B], embeddings [B, D], source_rows int [B] or None) -> scalar float32
MetricLoss = Callable[..., tf.Tensor]


def metric_loss(
    name: str,
    *,
    margin: float,
    distance_metric: str = "L2",
    images_per_class: Optional[int] = None,
    temperature: float = 0.1,
) -> MetricLoss:
    """Builds the metric loss of the whole stream.

    Args:
      name: one of METRIC_LOSSES. `tfa_*` are tensorflow-addons' further losses: `tfa_npairs` over
        the cosines / temperature of all pairs, each slot among its own positives;
        `tfa_lifted_struct`; `tfa_contrastive`, the mean over unordered pairs.
      margin: of the triplet losses, `tfa_lifted_struct` and `tfa_contrastive`.
      distance_metric: of the triplet losses.
      images_per_class: K of PK batches, if they are (speed only).
      temperature: of `supcon` and `tfa_npairs`.

    Returns:
      A function (labels [B], embeddings [B, D], source_rows [B] = None) -> scalar float32. The
      `tfa_npairs` and `tfa_lifted_struct` losses take source_rows and do not use them.

    Raises:
      UserError: unknown name or a setting out of range; tensorflow-addons is missing.
    """
    check_name(name, METRIC_LOSSES, "metric_loss")
    triplet.check_settings(margin, distance_metric, images_per_class)
    check_number(temperature, "temperature", minimum=0.0, exclusive=True)
    hard = functools.partial(
        triplet.triplet_hard_loss, margin=margin, distance_metric=distance_metric
    )
    if name == "triplet_semihard":
        chosen = functools.partial(
            triplet.triplet_semihard_loss,
            margin=margin,
            distance_metric=distance_metric,
            images_per_class=images_per_class,
        )
    elif name == "triplet_hard":
        chosen = hard
    elif name == "triplet_hard_soft":
        chosen = functools.partial(hard, soft=True)
    elif name == "supcon":
        chosen = functools.partial(contrastive.supervised_contrastive_loss, temperature=temperature)
    elif name == "multi_similarity":
        chosen = functools.partial(contrastive.multi_similarity_loss)
    else:
        chosen = _addons_loss(name, margin, temperature)

    def loss(labels: Any, embeddings: Any, source_rows: Any = None) -> tf.Tensor:
        return chosen(labels, tf.cast(embeddings, tf.float32), source_rows=source_rows)

    return loss


def _addons_loss(name: str, margin: float, temperature: float) -> functools.partial:
    addons = quiet_imports.tensorflow_addons().losses
    if name == "tfa_npairs":
        return functools.partial(_npairs, addons, temperature)
    return functools.partial(
        _lifted_struct if name == "tfa_lifted_struct" else _contrastive, addons, margin
    )


def _npairs(
    addons: Any, temperature: float, labels: Any, points: tf.Tensor, source_rows: Any
) -> tf.Tensor:
    del source_rows
    labels, points, _ = triplet.checked_batch(labels, points, None)
    unit = tf.math.l2_normalize(points, axis=1)
    return addons.npairs_loss(labels, tf.matmul(unit, unit, transpose_b=True) / temperature)


def _lifted_struct(
    addons: Any, margin: float, labels: Any, points: tf.Tensor, source_rows: Any
) -> tf.Tensor:
    del source_rows
    labels, points, _ = triplet.checked_batch(labels, points, None)
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    has_pair = tf.reduce_sum(tf.cast(same, tf.int32)) > tf.size(labels)
    return tf.cond(
        has_pair,
        lambda: addons.lifted_struct_loss(labels, points, margin),
        lambda: 0.0 * tf.reduce_sum(points),  # 0 / 0 in tensorflow-addons
    )


def _contrastive(
    addons: Any, margin: float, labels: Any, points: tf.Tensor, source_rows: Any
) -> tf.Tensor:
    labels, points, source_rows = triplet.checked_batch(labels, points, source_rows)
    between = addons.metric_learning.pairwise_distance(points)
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    slots = tf.range(tf.size(labels))
    pair = slots[:, tf.newaxis] < slots[tf.newaxis, :]
    if source_rows is not None:
        pair &= ~same | (source_rows[:, tf.newaxis] != source_rows[tf.newaxis, :])
    losses = addons.contrastive_loss(tf.cast(same, tf.float32), between, margin)
    number = tf.reduce_sum(tf.cast(pair, tf.float32))
    return tf.reduce_sum(tf.where(pair, losses, 0.0)) / tf.maximum(number, 1.0)
