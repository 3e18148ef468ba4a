"""Semi-hard mining, row by row of the distance matrix: the negative of one positive an anchor.

For each (anchor, positive) the negative is the nearest one strictly farther than the positive; if
there is none, the farthest negative (Schroff 2015, section 3.2, arXiv:1503.03832). Ties and
roundings follow tensorflow-addons.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise


class Rows(NamedTuple):
    """What rows of the distance matrix say about their anchors, whatever the positive."""

    between: tf.Tensor  # [R, B] distances
    negative_bits: tf.Tensor  # int32 [R, B], ordered bits of the distances to negatives, else -1
    largest: tf.Tensor  # [R, 1] over all slots
    smallest: tf.Tensor  # [R, 1] over all slots
    farthest: tf.Tensor  # [R, 1] negative; the smallest distance if there is none
    farthest_above: tf.Tensor  # [R, 1] farthest minus smallest


class Pairs(NamedTuple):
    """One positive of every anchor, with its negative."""

    loss: tf.Tensor  # scalar
    number: tf.Tensor  # scalar
    active: tf.Tensor  # float32 [R, 1], 1 where the hinge pushes
    has_near: tf.Tensor  # bool [R, 1]
    near: tf.Tensor  # [R, 1] nearest negative beyond the positive
    near_above: tf.Tensor  # [R, 1] the same minus the largest distance; 1 where there is none
    positive: tf.Tensor  # [R, 1] distance of the positive


def rows_of(parts: pairwise.Products, ids: tf.Tensor, distance_metric: str) -> Rows:
    """Measures the rows of the anchors of `parts`; ids [B], equal where the class is."""
    between = pairwise.distances(parts, distance_metric)
    bits = pairwise.ordered_bits(between)
    negative = tf.gather(ids, parts.anchors) != ids[tf.newaxis, :]
    negative_bits = tf.where(negative, bits, -1)
    smallest = pairwise.row_min(bits, distance_metric)
    # Subtracting the smallest and adding it again is what tensorflow-addons does; it rounds.
    farthest_bits = tf.reduce_max(negative_bits, axis=1, keepdims=True)
    farthest = tf.where(farthest_bits < 0, smallest, tf.bitcast(farthest_bits, tf.float32))
    return Rows(
        between=between,
        negative_bits=negative_bits,
        largest=pairwise.row_max(bits),
        smallest=smallest,
        farthest=(farthest - smallest) + smallest,
        farthest_above=farthest - smallest,
    )


def find(rows: Rows, slot: tf.Tensor, valid: tf.Tensor, margin: tf.Tensor) -> Pairs:
    """Finds the negative for the positive `slot` [R] of every anchor, where it is `valid`."""
    positive = tf.gather(rows.between, slot[:, tf.newaxis], batch_dims=1)
    beyond = rows.negative_bits > pairwise.ordered_bits(positive)
    near_bits = tf.reduce_min(
        tf.where(beyond, rows.negative_bits, pairwise.LARGEST_INT), axis=1, keepdims=True
    )
    has_near = near_bits < pairwise.LARGEST_INT
    near = tf.bitcast(near_bits, tf.float32)
    # Distances are told apart after subtracting the row's largest, as tensorflow-addons does.
    near_above = tf.where(has_near, near - rows.largest, 1.0)
    to_negative = tf.where(has_near, near_above + rows.largest, rows.farthest)
    hinge = margin + (positive - to_negative)
    valid = valid[:, tf.newaxis]
    return Pairs(
        loss=tf.reduce_sum(tf.where(valid, tf.maximum(hinge, 0.0), 0.0)),
        number=tf.reduce_sum(tf.cast(valid, tf.float32)),
        active=tf.cast(valid & (hinge >= 0.0), tf.float32),
        has_near=has_near,
        near=tf.where(has_near, near, 0.0),
        near_above=near_above,
        positive=positive,
    )


def near_ties(negative_bits: tf.Tensor, largest: tf.Tensor, found: Pairs) -> tf.Tensor:
    """Bool [R, B]: the negatives that share the nearest place beyond the positive."""
    above = tf.bitcast(negative_bits, tf.float32) - largest  # nan (never equal) if no negative
    return (negative_bits > pairwise.ordered_bits(found.positive)) & (above == found.near_above)


def far_ties(negative_bits: tf.Tensor, rows: Rows) -> tf.Tensor:
    """Bool [R, B]: the negatives that share the farthest place."""
    return tf.bitcast(negative_bits, tf.float32) - rows.smallest == rows.farthest_above


def is_pair(
    anchors: tf.Tensor, slot: tf.Tensor, inside: tf.Tensor, source_rows: Optional[tf.Tensor]
) -> tf.Tensor:
    """Bool [R]: the anchor has this many positives and this one is another source image."""
    if source_rows is None:
        return inside
    return inside & (tf.gather(source_rows, slot) != tf.gather(source_rows, anchors[:, 0]))
