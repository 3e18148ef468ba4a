"""Semi-hard mining that lists the few distances of each anchor that have a weight.

Much cheaper than weighing the matrix where classes are small, for some rows of it at a time; it
says when a batch is not of the kind it can do exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise, semihard_rows

MOST_SLOTS = 16384  # of a batch: the number and the sum of tied slots share an int32


class MinedList(NamedTuple):
    """Outcome of `mine` for R anchors with at most U positives each, L = 2 U + 1."""

    loss_sum: tf.Tensor  # scalar
    pairs: tf.Tensor  # scalar float32
    exact: tf.Tensor  # scalar bool; if not, use `semihard_matrix`
    slots: tf.Tensor  # int32 [R, L]: positives, nearest negatives, farthest negative
    sloped: tf.Tensor  # float32 [R, L]
    tied_slots: tf.Tensor  # int32 [R, U + 1]: second of two tied negatives, weight as the first
    tied_sloped: tf.Tensor  # float32 [R, U + 1], 0 where there is no tie


def mine(
    parts: pairwise.Products,
    classes: pairwise.Classes,
    source_rows: Optional[tf.Tensor],
    margin: tf.Tensor,
    *,
    distance_metric: str,
    positives: int,
) -> MinedList:
    """As `semihard_matrix.mine`, for the anchors of `parts` and at most `positives` of each.

    Not exact where a class has more slots than `positives` + 1, where three or more negatives tie,
    where a positive is as far as a chosen negative that is the row's farthest, and where an angular
    distance vanishes.
    """
    rows = semihard_rows.rows_of(parts, classes.ids, distance_metric)
    anchors = parts.anchors[:, 0]
    sizes = tf.gather(classes.sizes, anchors)
    slot = tf.gather(classes.following, anchors)
    positive_slots, pairs = [], []
    for step in range(1, positives + 1):
        valid = semihard_rows.is_pair(parts.anchors, slot, step < sizes, source_rows)
        positive_slots.append(slot[:, tf.newaxis])
        pairs.append(semihard_rows.find(rows, slot, valid, margin))
        slot = tf.gather(classes.following, slot)

    def tied_negatives(negative_bits: tf.Tensor) -> list:
        near = [semihard_rows.near_ties(negative_bits, rows.largest, found) for found in pairs]
        return [*near, semihard_rows.far_ties(negative_bits, rows)]

    columns = pairwise.columns(rows.between)
    # Number and sum of the tied slots in one pass.
    packed = _joined(
        tf.reduce_sum(tf.where(tied, columns + 65536, 0), axis=1, keepdims=True)
        for tied in tied_negatives(rows.negative_bits)
    )
    ties = tf.cast(packed // 65536, tf.float32)  # [R, U + 1]
    near = _joined(tf.where(found.has_near, found.active, 0.0) for found in pairs)
    active = _joined(found.active for found in pairs)
    to_farthest = tf.reduce_sum(active - near, axis=1, keepdims=True)
    negative_weights = -tf.concat([near, to_farthest], axis=1) / tf.maximum(ties, 1.0)
    # Ties are rare: only a block that has one looks for its first slot.
    first = tf.cond(
        tf.reduce_any(ties == 2.0),
        lambda: _joined(
            tf.reduce_min(tf.where(tied, columns, pairwise.LARGEST_INT), axis=1, keepdims=True)
            for tied in tied_negatives(rows.negative_bits)
        ),
        lambda: packed % 65536,
    )
    usable = (ties == 1.0) | (ties == 2.0)

    weights = tf.concat([active, negative_weights], axis=1)
    between = _joined(
        [found.positive for found in pairs] + [found.near for found in pairs] + [rows.farthest]
    )
    sloped = weights * pairwise.slope(between, distance_metric)
    negative_sloped = sloped[:, positives:]
    at_largest = (near > 0.0) & (_joined(found.near_above for found in pairs) >= 0.0)
    exact = tf.reduce_max(classes.sizes) <= positives + 1
    exact &= tf.reduce_all(usable | (negative_sloped == 0.0))
    exact &= tf.cond(
        tf.reduce_any(at_largest),
        lambda: tf.reduce_all(
            ~at_largest | (pairwise.count(rows.between == rows.largest) == ties[:, :positives])
        ),
        lambda: tf.constant(True),
    )
    if distance_metric == "angular":
        exact &= tf.reduce_all((between > 0.0) | (weights == 0.0))
    return MinedList(
        loss_sum=tf.add_n([found.loss for found in pairs]),
        pairs=tf.add_n([found.number for found in pairs]),
        exact=exact,
        slots=tf.concat([*positive_slots, tf.where(usable, first, 0)], axis=1),
        sloped=sloped,
        tied_slots=tf.where(ties == 2.0, packed % 65536 - first, 0),
        tied_sloped=tf.where(ties == 2.0, negative_sloped, 0.0),
    )


def join(blocks: list) -> MinedList:
    """Puts the outcomes for blocks of rows together."""
    loss_sums, pairs, exact, *lists = zip(*blocks)
    return MinedList(
        tf.add_n(loss_sums),
        tf.add_n(pairs),
        tf.reduce_all(tf.stack(exact)),
        *(tf.concat(parts, axis=0) for parts in lists),
    )


def _joined(columns: Iterable[tf.Tensor]) -> tf.Tensor:
    return tf.concat(list(columns), axis=1)
