"""Which triplets a batch has, and the value and gradient of a loss over them.

Distances are compared in float64: of a thousand negatives two are often nearer to each other than
float32 can tell, and the wrong one pulls the embeddings another way. They exist for one block of
anchors at a time, [R, B]. The triplets once chosen are weighed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

import tensorflow as tf

from longtail_tf.losses.memory import Memory
from longtail_tf.losses.pair_masks import pair_masks, partners

_BLOCK = 2**20  # distances in memory at once
_GROUP = 3  # positives that an anchor visits at once: all it has in a PK batch of K = 4

# A rank is a squared distance in steps, 2**37 of which are the largest possible one, with the
# column it stands in as its last digits. So the smallest rank of a row names the nearest slot, in
# one pass of whole numbers, which compilers make fast; and equal distances stay equal, whatever
# rounding did to them.
_STEPS = 2.0**37
_COLUMNS = 2**24
_NO_RANK = 2**63 - 1


class _Sums(NamedTuple):
    """Over the triplets so far."""

    loss: tf.Tensor  # float64 scalar
    number: tf.Tensor  # float64 scalar, triplets without loss included
    gradient: tf.Tensor  # float32 [B + Q, D]


def loss_and_gradient(
    labels: tf.Tensor,
    points: tf.Tensor,
    source_rows: Optional[tf.Tensor],
    memory: Optional[Memory],
    margin: tf.Tensor,
    *,
    distance_metric: str,
    semihard: bool,
    soft: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mines the triplets of a batch; to be compiled with XLA, which fuses the passes.

    Args:
      labels: int64 [B].
      points: float64 [B, D]; unit rows for the angular distance.
      source_rows: int [B], or None.
      memory: further positives and negatives, or None.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
      semihard: each positive with its semi-hard negative; else each anchor's hardest of both.
      soft: softplus in place of the hinge.

    Returns:
      The mean loss of the triplets, float32, 0 if there is none, and its gradient by the points,
      float32 [B, D].
    """
    size = tf.shape(labels)[0]
    compared = partners(labels, points, source_rows, memory)
    squares = tf.reduce_sum(tf.square(compared.embeddings), axis=1)
    steps = _STEPS / tf.maximum(4.0 * tf.reduce_max(squares), 1e-30)  # of a squared distance of 1
    columns = tf.range(tf.size(squares, tf.int64))
    rows = tf.minimum(size, tf.maximum(_BLOCK // tf.size(squares), 1))
    compared32 = tf.cast(compared.embeddings, tf.float32)
    mine = _semihard if semihard else _hardest

    def add_block(begin: tf.Tensor, sums: _Sums) -> tuple:
        anchors = tf.minimum(begin, size - rows) + tf.range(rows)  # the last block overlaps
        dots = tf.matmul(
            tf.gather(compared.embeddings, anchors), compared.embeddings, transpose_b=True
        )
        squared = tf.gather(squares, anchors)[:, tf.newaxis] + squares - 2.0 * dots
        ranks = tf.cast(tf.round(squared * steps), tf.int64) * _COLUMNS + columns

        def add(sums: _Sums, positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> _Sums:
            valid &= (anchors >= begin)[:, tf.newaxis]
            ends = tf.concat([positive, negative], axis=1)
            losses, gradient = _weigh(
                compared32, anchors, ends, valid, margin, distance_metric, soft
            )
            return _Sums(
                sums.loss + tf.reduce_sum(tf.cast(losses, tf.float64)),
                sums.number + tf.reduce_sum(tf.cast(valid, tf.float64)),
                sums.gradient + gradient,
            )

        return begin + rows, mine(compared, anchors, ranks, add, sums)

    zero = tf.zeros([], tf.float64)
    _, sums = tf.while_loop(
        lambda begin, _: begin < size, add_block, (0, _Sums(zero, zero, tf.zeros_like(compared32)))
    )
    number = tf.maximum(sums.number, 1.0)
    # A number that is lost makes ranks meaningless, and must be seen in the loss.
    whole = tf.reduce_all(squares < float("inf"))
    value = tf.where(whole, tf.cast(sums.loss / number, tf.float32), float("nan"))
    return value, sums.gradient[:size] / tf.cast(number, tf.float32)


def _semihard(
    compared: Memory, anchors: tf.Tensor, ranks: tf.Tensor, add: Callable, sums: _Sums
) -> _Sums:
    """Adds every positive with the nearest negative beyond it, or else the farthest negative.

    The positives are taken `_GROUP` at a time, in the order of the slots sorted by class: round
    the ring of the anchor's class, from the slot behind the anchor.
    """
    own = tf.gather(compared.labels, anchors)
    ringed = tf.where(compared.filled, compared.labels, tf.int64.min)  # unfilled: no one's class
    order = tf.argsort(ringed, stable=True)
    ordered = tf.gather(ringed, order)
    first = tf.searchsorted(ordered, own)[:, tf.newaxis]
    size = tf.searchsorted(ordered, own, side="right")[:, tf.newaxis] - first
    place = tf.gather(tf.argsort(order), anchors)[:, tf.newaxis] - first

    rows = tf.gather(compared.rows, anchors)[:, tf.newaxis]
    negatives = tf.where(pair_masks(compared, anchors).negative, ranks, -1)
    farthest = tf.reduce_max(negatives, axis=1, keepdims=True)
    farthest = tf.where(farthest < 0, anchors[:, tf.newaxis], _column(farthest))  # at distance 0

    def visit(turn: tf.Tensor, sums: _Sums) -> tuple:
        turns = turn + tf.range(_GROUP)
        positive = tf.gather(order, first + (place + turns) % size)  # [R, _GROUP]
        valid = (turns < size) & (tf.gather(compared.rows, positive) != rows)
        beyond = (tf.gather(ranks, positive, batch_dims=1) // _COLUMNS + 1) * _COLUMNS
        nearest = tf.stack(
            [
                tf.reduce_min(tf.where(negatives >= start, negatives, _NO_RANK), axis=1)
                for start in tf.split(beyond, _GROUP, axis=1)
            ],
            axis=1,
        )
        negative = tf.where(nearest < _NO_RANK, _column(nearest), farthest)
        return turn + _GROUP, add(sums, positive, negative, valid)

    _, sums = tf.while_loop(lambda turn, _: turn < tf.reduce_max(size), visit, (1, sums))
    return sums


def _hardest(
    compared: Memory, anchors: tf.Tensor, ranks: tf.Tensor, add: Callable, sums: _Sums
) -> _Sums:
    """Adds each anchor's farthest positive with its nearest negative.

    As in tensorflow-addons an anchor without a positive counts with positive distance 0, and one
    without a negative with the margin alone.
    """
    masks = pair_masks(compared, anchors)
    farthest = tf.reduce_max(tf.where(masks.positive, ranks, -1), axis=1)
    positive = tf.where(farthest < 0, anchors, _column(farthest))
    nearest = tf.reduce_min(tf.where(masks.negative, ranks, _NO_RANK), axis=1)
    negative = tf.where(nearest < _NO_RANK, _column(nearest), positive)
    return add(sums, positive[:, tf.newaxis], negative[:, tf.newaxis], tf.constant([[True]]))


def _column(rank: tf.Tensor) -> tf.Tensor:
    return tf.cast(rank % _COLUMNS, tf.int32)


def _weigh(
    points: tf.Tensor,
    anchors: tf.Tensor,
    ends: tf.Tensor,
    valid: tf.Tensor,
    margin: tf.Tensor,
    distance_metric: str,
    soft: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Losses of triplets [R, G] and the gradient of their sum by the points [N, D].

    Args:
      points: float32 [N, D].
      anchors: int32 [R].
      ends: int32 [R, 2 G], the positives, then the negatives.
      valid: bool [R, G], the triplets that count.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
      soft: softplus in place of the hinge.
    """
    away = tf.gather(points, anchors)[:, tf.newaxis] - tf.gather(points, ends)  # [R, 2 G, D]
    squared = tf.reduce_sum(tf.square(away), axis=2)
    # The slope is d distance / d away, over away; 0 at distance 0, where L2 has none.
    if distance_metric == "L2":
        between = tf.sqrt(squared)
        slope = tf.math.divide_no_nan(1.0, between)
    elif distance_metric == "squared-L2":
        between, slope = squared, 2.0
    else:  # of unit vectors, 1 - cosine
        between, slope = 0.5 * squared, 1.0
    to_positive, to_negative = tf.split(between, 2, axis=1)
    gap = to_positive - to_negative
    losses = tf.math.softplus(gap) if soft else tf.maximum(gap + margin, 0.0)
    push = tf.sigmoid(gap) if soft else tf.cast(gap + margin > 0.0, tf.float32)
    push = tf.where(valid, push, 0.0)
    pull = (tf.concat([push, -push], axis=1) * slope)[..., tf.newaxis] * away
    moved = tf.concat([tf.reduce_sum(pull, axis=1, keepdims=True), -pull], axis=1)
    slots = tf.concat([anchors[:, tf.newaxis], ends], axis=1)
    gradient = tf.math.unsorted_segment_sum(moved, slots, tf.shape(points)[0])
    return tf.where(valid, losses, 0.0), tf.ensure_shape(gradient, points.shape)
