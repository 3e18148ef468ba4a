"""Semi-hard mining: the negative of every positive pair, in [B, B] temporaries.

For each (anchor, positive) the negative is the nearest one strictly farther than the positive; if
there is none, the farthest negative (Schroff 2015, section 3.2, arXiv:1503.03832). Positives are
visited a few at a time, so nothing of size B^3 exists. Ties and roundings follow tensorflow-addons.

`mine` weighs the whole [B, B] matrix and is exact on every batch. `mine_list` names the few
distances of each anchor that have a weight, for some rows of the matrix; it says when it cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses import pairwise

_GROUP = 3  # so many positives of each anchor share one pass over the weights


class Mined(NamedTuple):
    """Outcome of `mine`: the loss is `loss_sum / pairs`."""

    loss_sum: tf.Tensor  # scalar
    pairs: tf.Tensor  # scalar float32: ordered positive pairs, those with zero loss included
    sloped: tf.Tensor  # [B, B]: d loss_sum / d squared distance (or minus dot product)


class MinedList(NamedTuple):
    """Outcome of `mine_list` for R anchors with at most U positives each, L = 2 U + 1."""

    loss_sum: tf.Tensor  # scalar
    pairs: tf.Tensor  # scalar float32
    exact: tf.Tensor  # scalar bool; if not, use `mine`
    slots: tf.Tensor  # int32 [R, L]: positives, nearest negatives, farthest negative
    sloped: tf.Tensor  # float32 [R, L]
    tied_slots: tf.Tensor  # int32 [R, U + 1]: second of two tied negatives, weight as the first
    tied_sloped: tf.Tensor  # float32 [R, U + 1], 0 where there is no tie


class _Rows(NamedTuple):
    """What rows of the distance matrix say about their anchors, whatever the positive."""

    between: tf.Tensor  # [R, B] distances
    negative_bits: tf.Tensor  # int32 [R, B], ordered bits of the distances to negatives, else -1
    largest: tf.Tensor  # [R, 1] over all slots
    smallest: tf.Tensor  # [R, 1] over all slots
    farthest: tf.Tensor  # [R, 1] negative; the smallest distance if there is none
    farthest_above: tf.Tensor  # [R, 1] farthest minus smallest


class _Pairs(NamedTuple):
    """One positive of every anchor, with its negative."""

    loss: tf.Tensor  # scalar
    number: tf.Tensor  # scalar
    active: tf.Tensor  # float32 [R, 1], 1 where the hinge pushes
    has_near: tf.Tensor  # bool [R, 1]
    near: tf.Tensor  # [R, 1] nearest negative beyond the positive
    near_above: tf.Tensor  # [R, 1] the same minus the largest distance; 1 where there is none
    positive: tf.Tensor  # [R, 1] distance of the positive


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
) -> Mined:
    """Finds the negative of every positive pair and weighs the distances.

    Args:
      parts: products of the batch with itself.
      labels: [B] of any comparable type.
      source_rows: [B] or None; slots of the same source are no pair.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
    """
    classes = pairwise.classes_of(labels)
    rows = _rows(parts, classes, distance_metric)
    columns = pairwise.columns(rows.between)
    batch = tf.cast(tf.shape(rows.between)[1], tf.float32)

    def visit(first: tf.Tensor, slot: tf.Tensor, sums: _Sums) -> tuple:
        for step in range(_GROUP):
            valid = _is_pair(parts.anchors, slot, first + step < classes.sizes, source_rows)
            found = _find(rows, slot, valid, margin)
            tied = _near_ties(rows.negative_bits, rows.largest, found)
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
    farthest = _far_ties(rows.negative_bits, rows)
    at_largest = rows.between == rows.largest
    weights = (
        sums.weights
        - tf.where(farthest, sums.farthest / tf.maximum(pairwise.count(farthest), 1.0), 0.0)
        - tf.where(at_largest, sums.largest / tf.maximum(pairwise.count(at_largest), 1.0), 0.0)
    )
    sloped = weights * pairwise.slope(rows.between, distance_metric, parts.dots)
    return Mined(sums.loss, sums.number, sloped)


def mine_list(
    parts: pairwise.Products,
    classes: pairwise.Classes,
    source_rows: Optional[tf.Tensor],
    margin: tf.Tensor,
    *,
    distance_metric: str,
    positives: int,
) -> MinedList:
    """As `mine` for the anchors of `parts`, when no class has more than `positives` + 1 slots.

    Not exact where three or more negatives tie, where a positive is as far as a chosen negative
    that is the row's farthest, and where an angular distance vanishes.
    """
    rows = _rows(parts, classes, distance_metric)
    anchors = parts.anchors[:, 0]
    sizes = tf.gather(classes.sizes, anchors)
    slot = tf.gather(classes.following, anchors)
    positive_slots, pairs = [], []
    for step in range(1, positives + 1):
        valid = _is_pair(parts.anchors, slot, step < sizes, source_rows)
        positive_slots.append(slot[:, tf.newaxis])
        pairs.append(_find(rows, slot, valid, margin))
        slot = tf.gather(classes.following, slot)

    def tied_negatives(negative_bits: tf.Tensor) -> list:
        near = [_near_ties(negative_bits, rows.largest, found) for found in pairs]
        return [*near, _far_ties(negative_bits, rows)]

    columns = pairwise.columns(rows.between)
    # Number and sum of the tied slots in one pass; B is below 32,768.
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
        tf.reduce_any((ties == 2.0) & (negative_weights != 0.0)),
        lambda: _joined(
            tf.reduce_min(
                tf.where(tied, columns, pairwise.LARGEST_INT), axis=1, keepdims=True
            )
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


def _rows(parts: pairwise.Products, classes: pairwise.Classes, distance_metric: str) -> _Rows:
    between = pairwise.distances(parts, distance_metric)
    bits = pairwise.ordered_bits(between)
    negative = tf.gather(classes.ids, parts.anchors) != classes.ids[tf.newaxis, :]
    negative_bits = tf.where(negative, bits, -1)
    smallest = pairwise.row_min(bits, distance_metric)
    # Subtracting the smallest and adding it again is what tensorflow-addons does; it rounds.
    farthest_bits = tf.reduce_max(negative_bits, axis=1, keepdims=True)
    farthest = tf.where(farthest_bits < 0, smallest, tf.bitcast(farthest_bits, tf.float32))
    return _Rows(
        between=between,
        negative_bits=negative_bits,
        largest=pairwise.row_max(bits),
        smallest=smallest,
        farthest=(farthest - smallest) + smallest,
        farthest_above=farthest - smallest,
    )


def _find(rows: _Rows, slot: tf.Tensor, valid: tf.Tensor, margin: tf.Tensor) -> _Pairs:
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
    return _Pairs(
        loss=tf.reduce_sum(tf.where(valid, tf.maximum(hinge, 0.0), 0.0)),
        number=tf.reduce_sum(tf.cast(valid, tf.float32)),
        active=tf.cast(valid & (hinge >= 0.0), tf.float32),
        has_near=has_near,
        near=tf.where(has_near, near, 0.0),
        near_above=near_above,
        positive=positive,
    )


def _near_ties(negative_bits: tf.Tensor, largest: tf.Tensor, found: _Pairs) -> tf.Tensor:
    """Bool [R, B]: the negatives that share the nearest place beyond the positive."""
    above = tf.bitcast(negative_bits, tf.float32) - largest  # nan (never equal) if no negative
    return (negative_bits > pairwise.ordered_bits(found.positive)) & (above == found.near_above)


def _far_ties(negative_bits: tf.Tensor, rows: _Rows) -> tf.Tensor:
    """Bool [R, B]: the negatives that share the farthest place."""
    return tf.bitcast(negative_bits, tf.float32) - rows.smallest == rows.farthest_above


def _joined(columns: Iterable[tf.Tensor]) -> tf.Tensor:
    return tf.concat(list(columns), axis=1)


def _is_pair(
    anchors: tf.Tensor, slot: tf.Tensor, inside: tf.Tensor, source_rows: Optional[tf.Tensor]
) -> tf.Tensor:
    """Bool [R]: the anchor has this many positives and this one is another source image."""
    if source_rows is None:
        return inside
    return inside & (tf.gather(source_rows, slot) != tf.gather(source_rows, anchors[:, 0]))
