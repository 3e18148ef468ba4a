"""Batch-hard mining in [B, B] temporaries: one farthest positive, one nearest negative an anchor.

Hermans 2017, section 2, arXiv:1703.07737. Ties, roundings and the anchors without a positive or a
negative follow tensorflow-addons.
"""

from __future__ import annotations

from typing import Optional

import tensorflow as tf

from longtail_tf.losses import pairwise


def mine(
    parts: pairwise.Products,
    labels: tf.Tensor,
    source_rows: Optional[tf.Tensor],
    margin: tf.Tensor,
    *,
    distance_metric: str,
    soft: bool,
) -> tuple:
    """Takes each anchor's hardest positive and negative and weighs the distances.

    Args:
      parts: products of the batch with itself.
      labels: [B], of any type.
      source_rows: int [B] or None; slots of the same image are no positive pair.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
      soft: softplus in place of the hinge.

    Returns:
      The loss, a scalar: the mean over anchors, or 0. Its weights, `pairwise.Weighted`.
    """
    between = pairwise.distances(parts, distance_metric)
    bits = pairwise.ordered_bits(between)
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    positive = same & (pairwise.columns(between) != parts.anchors)
    if source_rows is not None:
        positive &= source_rows[:, tf.newaxis] != source_rows[tf.newaxis, :]
    largest = pairwise.row_max(bits)
    smallest = pairwise.row_min(bits, distance_metric)

    near_bits = tf.reduce_min(tf.where(same, pairwise.LARGEST_INT, bits), axis=1, keepdims=True)
    has_negative = near_bits < pairwise.LARGEST_INT
    near_above = tf.where(has_negative, tf.bitcast(near_bits, tf.float32) - largest, 0.0)
    nearest = ~same & (between - largest == near_above)
    far_bits = tf.reduce_max(tf.where(positive, bits, -1), axis=1, keepdims=True)
    far_above = tf.where(far_bits < 0, 0.0, tf.bitcast(far_bits, tf.float32) - smallest)
    farthest = positive & (between - smallest == far_above)

    violation = (far_above + smallest) - (near_above + largest)
    if soft:
        losses = tf.math.softplus(violation)
        slope = tf.math.sigmoid(violation)
    else:
        losses = tf.maximum(violation + margin, 0.0)
        slope = tf.cast(violation + margin >= 0.0, tf.float32)

    # As in semihard_mining: where the minimum runs over zeros, tensorflow-addons gives 1/B to each
    # negative there and the rest to the row's largest distance; without negatives, all of it.
    batch = tf.cast(tf.shape(between)[1], tf.float32)
    ties = pairwise.count(nearest)
    is_largest = near_above >= 0.0
    share = tf.where(is_largest, slope / batch, slope / tf.maximum(ties, 1.0))
    at_largest = between == largest
    largest_share = tf.where(is_largest, slope * (1.0 - ties / batch), 0.0) / tf.maximum(
        pairwise.count(at_largest), 1.0
    )
    weights = (
        tf.where(farthest, slope / tf.maximum(pairwise.count(farthest), 1.0), 0.0)
        - tf.where(nearest, share, 0.0)
        - tf.where(at_largest, largest_share, 0.0)
    )
    scale = 1.0 / tf.maximum(batch, 1.0)
    slopes = scale * pairwise.slope(between, distance_metric, parts.dots)
    return scale * tf.reduce_sum(losses), pairwise.weighted(weights, slopes, distance_metric)
