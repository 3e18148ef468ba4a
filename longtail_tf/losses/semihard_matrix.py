"""Semi-hard mining that weighs the whole [B, B] matrix of distances; exact on every batch.

Positives are visited a few at a time, so nothing of size B^3 exists.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise, semihard_rows

_UNROLLED = 3  # positives of each anchor visited without a loop; many batches have no more
_GROUP = 3  # positives of each anchor that share one pass of the loop over the weights


class _Sums(NamedTuple):
    loss: tf.Tensor  # scalar
    number: tf.Tensor  # scalar, ordered positive pairs
    farthest: tf.Tensor  # [B, 1] weight that falls to the farthest negative
    largest: tf.Tensor  # [B, 1] weight that falls to the largest distance of the row
    weights: tf.Tensor  # [B, B]


class _Place(NamedTuple):
    """One positive of every anchor."""

    slot: tf.Tensor  # int32 [B]
    left: tf.Tensor  # bool [B], false once the anchor's class has been gone round


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
    ids = pairwise.small_ids(labels)
    following = pairwise.following_slots(ids)
    anchors = parts.anchors[:, 0]

    def next_place(place: _Place) -> _Place:
        slot = tf.gather(following, place.slot)
        return _Place(slot, place.left & (slot != anchors))

    first = _Place(following, following != anchors)
    beyond_unrolled = first
    for _ in range(_UNROLLED):
        beyond_unrolled = next_place(beyond_unrolled)

    def weigh(loop: bool) -> tuple:
        rows = semihard_rows.rows_of(parts, ids, distance_metric)

        def visit(place: _Place, sums: _Sums, number: int) -> tuple:
            for _ in range(number):
                sums = _add(sums, rows, parts, place, source_rows, margin)
                place = next_place(place)
            return place, sums

        none = tf.zeros_like(rows.largest)
        sums = _Sums(tf.zeros([]), tf.zeros([]), none, none, tf.zeros_like(rows.between))
        if loop:
            _, sums = tf.while_loop(
                lambda place, _: tf.reduce_any(place.left),
                lambda place, sums: visit(place, sums, _GROUP),
                (first, sums),
            )
        else:
            _, sums = visit(first, sums, _UNROLLED)
        scale = 1.0 / tf.maximum(sums.number, 1.0)
        slopes = scale * pairwise.slope(rows.between, distance_metric, parts.dots)
        weights = sums.weights + _shared_weights(rows, sums)
        return scale * sums.loss, pairwise.weighted(weights, slopes, distance_metric)

    return tf.cond(
        tf.reduce_any(beyond_unrolled.left), lambda: weigh(loop=True), lambda: weigh(loop=False)
    )


def _add(
    sums: _Sums,
    rows: semihard_rows.Rows,
    parts: pairwise.Products,
    place: _Place,
    source_rows: Optional[tf.Tensor],
    margin: tf.Tensor,
) -> _Sums:
    """Adds one positive of every anchor."""
    valid = semihard_rows.is_pair(parts.anchors, place.slot, place.left, source_rows)
    found = semihard_rows.find(rows, place.slot, valid, margin)
    tied = semihard_rows.near_ties(rows.negative_bits, rows.largest, found)
    columns = pairwise.columns(rows.between)
    batch = tf.cast(tf.shape(rows.between)[1], tf.float32)
    near = tf.where(found.has_near, found.active, 0.0)
    ties = pairwise.count(tied)
    # A nearest negative that is also the row's largest distance: tensorflow-addons' minimum runs
    # over zeros then, so 1/B goes to each such negative and the rest to the row's largest distance,
    # whatever it is.
    is_largest = found.near_above >= 0.0
    share = near / tf.where(is_largest, batch, tf.maximum(ties, 1.0))
    return _Sums(
        sums.loss + found.loss,
        sums.number + found.number,
        sums.farthest + found.active - near,
        sums.largest + tf.where(is_largest, near * (1.0 - ties / batch), 0.0),
        sums.weights
        + tf.where(columns == place.slot[:, tf.newaxis], found.active, 0.0)
        - tf.where(tied, share, 0.0),
    )


def _shared_weights(rows: semihard_rows.Rows, sums: _Sums) -> tf.Tensor:
    """Weights [B, B] of the farthest negatives and of the largest distances, shared by ties."""
    farthest = semihard_rows.far_ties(rows.negative_bits, rows)
    farthest_share = sums.farthest / tf.maximum(pairwise.count(farthest), 1.0)
    largest = rows.between == rows.largest
    largest_share = sums.largest / tf.maximum(pairwise.count(largest), 1.0)
    return -tf.where(farthest, farthest_share, 0.0) - tf.where(largest, largest_share, 0.0)
