"""Softmax cross entropy over the classes of the batch and a sample of the others."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import pairwise
from longtail_tf.losses.chunked import check_kernel
from longtail_tf.losses.triplet import checked_batch


def partial_cross_entropy(
    labels: Any, embeddings: Any, kernel: Any, *, num_sampled: int, seed: int, step: Any
) -> tf.Tensor:
    """Mean cross entropy over the batch's own classes and `num_sampled` other ones.

    Partial FC: An 2021, section 3, arXiv:2010.05222; a step costs O(B * num_sampled) whatever the
    number of classes. The sample takes one class out of each of num_sampled equal ranges of class
    ids, so that it needs no pass over all classes and every class is as likely as any other.

    Args:
      labels: int [B], 0 .. C - 1.
      embeddings: [B, D]; computed in float32.
      kernel: [C, D], one row a class, C known when tracing. A variable's gradient is sparse (only
        the rows that took part), so an optimizer moves no others.
      num_sampled: classes drawn, 1 .. C; with C all classes take part: the full cross entropy.
      seed: of the draw.
      step: training step, int scalar; the draw is a pure function of (seed, step).

    Returns:
      Scalar float32.

    Raises:
      UserError: num_sampled out of range or shapes that do not fit.
    """
    labels, points, _ = checked_batch(labels, embeddings, None)
    kernel = kernel if tf.is_tensor(kernel) else tf.convert_to_tensor(kernel)
    check_kernel(points, kernel)
    number = kernel.shape[0]
    if isinstance(num_sampled, bool) or not 1 <= num_sampled <= number:
        raise UserError(
            f"num_sampled={num_sampled!r} was given: give a whole number from 1 to the number of "
            f"classes, {number}."
        )
    labels = tf.cast(labels, tf.int64)
    points = tf.cast(points, tf.float32)
    sampled = sampled_classes(number, num_sampled, seed=seed, step=step)
    own = pairwise.classes_of(labels)
    slots = tf.range(tf.shape(labels)[0])
    # Columns: one a slot, of which only the first slot of each class counts, then the sample
    # without the classes that already have a column.
    ordered = tf.sort(labels)
    place = tf.minimum(tf.searchsorted(ordered, sampled), tf.shape(ordered)[0] - 1)
    counts = tf.concat([own.ids == slots, tf.gather(ordered, place) != sampled], axis=0)
    rows = tf.cast(tf.gather(kernel, tf.concat([labels, sampled], axis=0)), tf.float32)
    logits = tf.matmul(points, rows, transpose_b=True)
    logits = tf.where(counts[tf.newaxis, :], logits, -1e30)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own.ids, logits=logits)
    return tf.reduce_mean(losses)


def sampled_classes(number: int, num_sampled: int, *, seed: int, step: Any) -> tf.Tensor:
    """Distinct class ids int64 [num_sampled] of `number`, rising, drawn from (seed, step)."""
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    fractions = tf.random.stateless_uniform([num_sampled], key, dtype=tf.float64)
    starts = tf.range(num_sampled, dtype=tf.int64) * number // num_sampled
    ends = (tf.range(num_sampled, dtype=tf.int64) + 1) * number // num_sampled
    width = tf.cast(ends - starts, tf.float64)
    return starts + tf.minimum(tf.cast(fractions * width, tf.int64), ends - starts - 1)
