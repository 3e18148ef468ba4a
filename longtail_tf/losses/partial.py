"""Softmax cross entropy over the classes of the batch and a random sample of the others."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError

_NEVER = -1e30  # exp() of it is 0


def partial_cross_entropy(
    labels: Any,
    neck_output: Any,
    kernel: Any,
    *,
    num_sampled: int,
    seed: Any,
    step: Any,
) -> tf.Tensor:
    """Mean softmax cross entropy over the classes of the batch and `num_sampled` drawn ones.

    Partial FC (An 2021, section 3.2, arXiv:2010.05222): the classes that occur in the batch always
    stay, the others by chance, and nothing corrects the logits for it. Logits are
    [B, B + num_sampled]; the gradient by the kernel is dense, [D, C], 0 in the columns left out.

    Args:
      labels: int [B], 0 to C - 1.
      neck_output: float [B, D], any precision; computed in float32.
      kernel: tensor or variable [D, C], C known when tracing.
      num_sampled: classes drawn, 1 to C; those that occur in the batch anyway count among them.
        With C this is the full softmax.
      seed: int; with the step it alone determines the draw.
      step: int, or an int scalar tensor.

    Returns:
      float32 scalar; 0 for an empty batch.

    Raises:
      UserError: the shapes do not fit, or `num_sampled` is out of range.
    """
    labels, points, kernel = _checked_head(labels, neck_output, kernel)
    sampled = sample_classes(kernel.shape[1], num_sampled=num_sampled, seed=seed, step=step)
    slots = tf.range(tf.shape(labels)[0])
    same = labels[:, tf.newaxis] == labels[tf.newaxis, :]
    first = tf.reduce_min(tf.where(same, slots[tf.newaxis, :], labels.dtype.max), axis=1)
    # A class is one column only: that of its first slot, or else that of its draw.
    in_batch = tf.reduce_any(sampled[:, tf.newaxis] == labels[tf.newaxis, :], axis=1)
    left_out = tf.concat([first != slots, in_batch], axis=0)
    columns = tf.gather(kernel, tf.concat([labels, sampled], axis=0), axis=1)
    logits = tf.matmul(tf.cast(points, tf.float32), tf.cast(columns, tf.float32))
    logits = tf.where(left_out, _NEVER, logits)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=first, logits=logits)
    return tf.reduce_sum(losses) / tf.maximum(tf.cast(tf.shape(labels)[0], tf.float32), 1.0)


def sample_classes(num_classes: int, *, num_sampled: int, seed: Any, step: Any) -> tf.Tensor:
    """Draws distinct classes in O(num_sampled): a pure function of (seed, step).

    The ring of classes is turned by a random angle, cut into `num_sampled` arcs as equal as can be,
    and one class drawn from each. So every class has the same chance, num_sampled / num_classes,
    and as classes are numbered by falling count, each draw spans head and tail evenly; classes of
    one arc never come together.

    Returns:
      int32 [num_sampled].

    Raises:
      UserError: `num_sampled` is not a whole number of 1 to num_classes.
    """
    whole = isinstance(num_sampled, int) and not isinstance(num_sampled, bool)
    if not whole or not 1 <= num_sampled <= num_classes:
        raise UserError(
            f"num_sampled={num_sampled!r} was given for a classifier of {num_classes} classes: "
            f"give a whole number of 1 to {num_classes}."
        )
    bounds = tf.range(num_sampled + 1, dtype=tf.int64) * num_classes // num_sampled
    sizes = bounds[1:] - bounds[:-1]
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    draws = tf.random.stateless_uniform(
        [num_sampled + 1], key, minval=0, maxval=tf.int64.max, dtype=tf.int64
    )
    drawn = bounds[:-1] + draws[1:] % sizes
    return tf.cast((drawn + draws[0] % num_classes) % num_classes, tf.int32)


def _checked_head(labels: Any, neck_output: Any, kernel: Any) -> tuple:
    """Labels int32 [B], neck output [B, D] and kernel [D, C] as tensors.

    Raises:
      UserError: the shapes known so far do not fit.
    """
    points, kernel = tf.convert_to_tensor(neck_output), tf.convert_to_tensor(kernel)
    labels = tf.reshape(tf.cast(labels, tf.int32), [-1])
    fits = (
        points.shape.rank == 2
        and kernel.shape.rank == 2
        and points.shape[1:].is_compatible_with(kernel.shape[:1])
        and points.shape[:1].is_compatible_with(labels.shape)
    )
    if not fits or kernel.shape[1] is None:
        raise UserError(
            f"labels {labels.shape}, neck output {points.shape} and kernel {kernel.shape} came: "
            "give labels [B], neck output [B, D] and a kernel [D, C] of a known number of classes."
        )
    return labels, points, kernel
