"""Semi-hard mining that weighs the whole [B, B] matrix of distances; exact on every batch.

Positives are visited a few at a time, so nothing of size B^3 exists.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise, semihard_rows

_GROUP = 3  # so many positives of each anchor share one pass over the weights


class _Sums(NamedTuple):
    loss: tf.Tensor  # scalar
    number: tf.Tensor  # scalar
    farthest: tf.Tensor  # [R, 1] weight that falls to the farthest negative
    largest: tf.Tensor  # [R, 1] weight that falls to the largest distance of the row
    weights: tf.Tensor  # [R, B]


def mine(
    parts: pairwise.Products,
    labels: tf.Tensor,
    source_rows: Optional[tf.Tensor],
    margin: tf.Tensor,
    *,
    distance_metric: str,
) -> tuple:
    """Finds the negative of every positive pair and weighs the distances.

    Args:
      parts: products of the batch with itself.
      labels: [B] of any comparable type.
      source_rows: [B] or None; slots of the same source are no pair.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.

    Returns:
      The loss, a scalar: the mean over ordered positive pairs, those without loss included, or 0.
      Its weights, `pairwise.Weighted`.
    """
    classes = pairwise.classes_of(labels)
    rows = semihard_rows.rows_of(parts, classes, distance_metric)
    columns = pairwise.columns(rows.between)
    batch = tf.cast(tf.shape(rows.between)[1], tf.float32)

    def visit(first: tf.Tensor, slot: tf.Tensor, sums: _Sums) -> tuple:
        for step in range(_GROUP):
            valid = semihard_rows.is_pair(
                parts.anchors, slot, first + step < classes.sizes, source_rows
            )
            found = semihard_rows.find(rows, slot, valid, margin)
            tied = semihard_rows.near_ties(rows.negative_bits, rows.largest, found)
            near = tf.where(found.has_near, found.active, 0.0)
            ties = pairwise.count(tied)
            # A nearest negative that is also the row's largest distance: tensorflow-addons'
            # minimum runs over zeros then, so 1/B goes to each such negative and the rest to the
            # row's largest distance, whatever it is.
            is_largest = found.near_above >= 0.0
            share = near / tf.where(is_largest, batch, tf.maximum(ties, 1.0))
            sums = _Sums(
                sums.loss + found.loss,
                sums.number + found.number,
                sums.farthest + found.active - near,
                sums.largest + tf.where(is_largest, near * (1.0 - ties / batch), 0.0),
                sums.weights
                + tf.where(columns == slot[:, tf.newaxis], found.active, 0.0)
                - tf.where(tied, share, 0.0),
            )
            slot = tf.gather(classes.following, slot)
        return first + _GROUP, slot, sums

    zero = tf.zeros([], tf.float32)
    none = tf.zeros_like(rows.largest)
    largest_class = tf.reduce_max(classes.sizes)
    # The first group outside the loop: it compiles to much less, and many batches need no other.
    start = _Sums(zero, zero, none, none, tf.zeros_like(rows.between))
    state = visit(tf.constant(1), classes.following, start)
    sums = tf.cond(
        largest_class > _GROUP + 1,
        lambda: tf.while_loop(lambda first, *_: first < largest_class, visit, state)[2],
        lambda: state[2],
    )
    farthest = semihard_rows.far_ties(rows.negative_bits, rows)
    at_largest = rows.between == rows.largest
    weights = (
        sums.weights
        - tf.where(farthest, sums.farthest / tf.maximum(pairwise.count(farthest), 1.0), 0.0)
        - tf.where(at_largest, sums.largest / tf.maximum(pairwise.count(at_largest), 1.0), 0.0)
    )
    scale = 1.0 / tf.maximum(sums.number, 1.0)
    slopes = scale * pairwise.slope(rows.between, distance_metric, parts.dots)
    return scale * sums.loss, pairwise.weighted(weights, slopes, distance_metric)
