"""Which triplets a batch has, and the value and gradient of a loss over them.

Distances are compared in float64: of a thousand negatives two are often nearer to each other than
float32 can tell, and the wrong one pulls the embeddings another way. They exist for one block of
anchors at a time, [R, B]. The triplets once chosen are weighed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from longtail_tf.losses.memory import Memory
from longtail_tf.losses.pair_masks import PairMasks, pair_masks, partners

_BLOCK = 2**19  # distances in memory at once

# A rank is a squared distance in steps, 2**37 of which are the largest possible one, with the
# column it stands in as its last digits. So the smallest rank of a row names the nearest slot, in
# one pass of whole numbers, which compilers make fast; and equal distances stay equal, whatever
# rounding did to them.
_STEPS = 2.0**37
_COLUMNS = 2**24
_NO_RANK = 2**63 - 1
_NO_COLUMN = 2**31 - 1


class _Sums(NamedTuple):
    """Over the triplets so far."""

    loss: tf.Tensor  # float64 scalar
    number: tf.Tensor  # float64 scalar, triplets without loss included
    gradient: tf.Tensor  # float32 [B + Q, D]


def loss_and_gradient(
    labels: tf.Tensor,
    points: tf.Tensor,
    source_rows: tf.Tensor | None,
    memory: Memory | None,
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
      memory: Q further positives and negatives, or None.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
      semihard: each positive with its semi-hard negative; else each anchor's hardest of both.
      soft: softplus in place of the hinge.

    Returns:
      The mean loss of the triplets, float32, 0 if there is none, and its gradient by the points,
      float32 [B, D].
    """
    compared = partners(labels, points, source_rows, memory)
    # Moved to their mean, which changes no distance, points far from the origin lose no digits.
    exact = compared.embeddings - tf.reduce_mean(compared.embeddings, axis=0)
    short = tf.cast(exact, tf.float32)
    squares = tf.reduce_sum(tf.square(exact), axis=1)
    steps = _STEPS / tf.maximum(4.0 * tf.reduce_max(squares), 1e-30)  # to a squared distance of 1
    columns = tf.range(tf.size(squares, tf.int64))
    size = tf.size(labels)
    rows = tf.minimum(size, tf.maximum(_BLOCK // tf.size(squares), 1))

    def add_block(begin: tf.Tensor, sums: _Sums) -> tuple:
        anchors = tf.minimum(begin, size - rows) + tf.range(rows)  # the last block overlaps
        dots = tf.matmul(tf.gather(exact, anchors), exact, transpose_b=True)
        squared = tf.gather(squares, anchors)[:, tf.newaxis] + squares - 2.0 * dots
        ranks = tf.cast(tf.round(squared * steps), tf.int64) * _COLUMNS + columns

        def add(sums: _Sums, positive: tf.Tensor, negative: tf.Tensor, valid: tf.Tensor) -> _Sums:
            valid &= anchors >= begin
            ends = anchors, positive, negative
            losses, gradient = _weigh(short, ends, valid, margin, distance_metric, soft)
            return _Sums(
                sums.loss + tf.reduce_sum(tf.cast(losses, tf.float64)),
                sums.number + tf.reduce_sum(tf.cast(valid, tf.float64)),
                sums.gradient + gradient,
            )

        mine = _semihard if semihard else _hardest
        return begin + rows, mine(pair_masks(compared, anchors), anchors, ranks, add, sums)

    zero = tf.zeros([], tf.float64)
    _, sums = tf.while_loop(
        lambda begin, _: begin < size, add_block, (0, _Sums(zero, zero, tf.zeros_like(short)))
    )
    number = tf.maximum(sums.number, 1.0)
    # A number that is lost makes ranks meaningless, and must be seen in the loss.
    whole = tf.reduce_all(squares < float("inf"))
    value = tf.where(whole, tf.cast(sums.loss / number, tf.float32), float("nan"))
    return value, sums.gradient[:size] / tf.cast(number, tf.float32)


def _semihard(
    masks: PairMasks, anchors: tf.Tensor, ranks: tf.Tensor, add: Callable, sums: _Sums
) -> _Sums:
    """Adds every positive with the nearest negative beyond it, or else the farthest negative."""
    positives = tf.where(masks.positive, tf.range(tf.shape(ranks)[1]), _NO_COLUMN)
    last_positive = tf.reduce_max(tf.where(masks.positive, positives, -1), axis=1)
    negatives = tf.where(masks.negative, ranks, -1)
    farthest = tf.reduce_max(negatives, axis=1)
    farthest = tf.where(farthest < 0, anchors, _column(farthest))  # none: itself, at distance 0

    def visit(positive: tf.Tensor, sums: _Sums) -> tuple:
        later = tf.where(positives > positive[:, tf.newaxis], positives, _NO_COLUMN)
        positive = tf.reduce_min(later, axis=1)  # each anchor's next
        valid = positive < _NO_COLUMN
        end = tf.where(valid, positive, anchors)
        beyond = (tf.gather(ranks, end, batch_dims=1) // _COLUMNS + 1) * _COLUMNS
        farther = tf.where(negatives >= beyond[:, tf.newaxis], negatives, _NO_RANK)
        nearest = tf.reduce_min(farther, axis=1)
        negative = tf.where(nearest < _NO_RANK, _column(nearest), farthest)
        return positive, add(sums, end, negative, valid)

    _, sums = tf.while_loop(
        lambda positive, _: tf.reduce_any(positive < last_positive),
        visit,
        (tf.zeros_like(anchors) - 1, sums),
    )
    return sums


def _hardest(
    masks: PairMasks, anchors: tf.Tensor, ranks: tf.Tensor, add: Callable, sums: _Sums
) -> _Sums:
    """Adds each anchor's farthest positive with its nearest negative.

    As in tensorflow-addons an anchor without a positive counts with positive distance 0, and one
    without a negative with the margin alone.
    """
    farthest = tf.reduce_max(tf.where(masks.positive, ranks, -1), axis=1)
    positive = tf.where(farthest < 0, anchors, _column(farthest))
    nearest = tf.reduce_min(tf.where(masks.negative, ranks, _NO_RANK), axis=1)
    negative = tf.where(nearest < _NO_RANK, _column(nearest), positive)
    return add(sums, positive, negative, tf.ones_like(anchors, tf.bool))


def _column(rank: tf.Tensor) -> tf.Tensor:
    return tf.cast(rank % _COLUMNS, tf.int32)


def _weigh(
    points: tf.Tensor,
    ends: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    valid: tf.Tensor,
    margin: tf.Tensor,
    distance_metric: str,
    soft: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Losses of triplets [R], and the gradient of their sum by the points [N, D].

    Args:
      points: float32 [N, D].
      ends: anchors, positives and negatives, int32 [R] each.
      valid: bool [R], the triplets that count.
      margin: scalar float32.
      distance_metric: one of DISTANCE_METRICS.
      soft: softplus in place of the hinge.
    """
    anchor, positive, negative = (tf.gather(points, end) for end in ends)
    to_positive, by_positive = _distance(anchor - positive, distance_metric)
    to_negative, by_negative = _distance(anchor - negative, distance_metric)
    gap = to_positive - to_negative
    losses = tf.math.softplus(gap) if soft else tf.maximum(gap + margin, 0.0)
    push = tf.sigmoid(gap) if soft else tf.cast(gap + margin > 0.0, tf.float32)
    push = tf.where(valid, push, 0.0)[:, tf.newaxis]
    pulled, pushed = push * by_positive, push * by_negative
    moved = tf.concat([pulled - pushed, -pulled, pushed], axis=0)
    gradient = tf.math.unsorted_segment_sum(moved, tf.concat(ends, axis=0), tf.shape(points)[0])
    return tf.where(valid, losses, 0.0), tf.ensure_shape(gradient, points.shape)


def _distance(away: tf.Tensor, distance_metric: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Lengths [R] of differences [R, D], and the gradients by them; 0 where L2 has none."""
    squared = tf.reduce_sum(tf.square(away), axis=1)
    if distance_metric == "squared-L2":
        return squared, 2.0 * away
    if distance_metric == "angular":  # of unit vectors, 1 - cosine
        return 0.5 * squared, away
    between = tf.sqrt(squared)
    return between, tf.math.divide_no_nan(away, between[:, tf.newaxis])
