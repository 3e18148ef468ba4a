"""Softmax cross entropy over very many classes, a chunk of classes at a time."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses.names import check_number
from longtail_tf.losses.triplet import checked_batch


def chunked_cross_entropy(
    labels: Any,
    embeddings: Any,
    kernel: Any,
    *,
    logit_offsets: Any = None,
    label_smoothing: float = 0.0,
    chunk_size: int = 8192,
) -> tf.Tensor:
    """Mean cross entropy of logits = embeddings kernel^T + logit_offsets, without [B, C] tensors.

    Same value and gradients as the plain formula. The logits are made twice, chunk by chunk: once
    for the log-sum-exp, once for the gradients. Besides the kernel's own gradient, memory is about
    three tensors [B, chunk_size].

    Args:
      labels: int [B], 0 .. C - 1.
      embeddings: [B, D]; computed in float32.
      kernel: [C, D], one row a class; its gradient is dense.
      logit_offsets: [C] to add to the logits (log class shares for a logit-adjusted loss); no
        gradient.
      label_smoothing: share of the target spread over all classes, 0 up to 1.
      chunk_size: classes in a chunk, at least 1.

    Returns:
      Scalar float32.

    Raises:
      UserError: a setting out of range or shapes that do not fit.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise UserError(f"chunk_size={chunk_size!r} was given: give a whole number of at least 1.")
    smoothing = check_number(label_smoothing, "label_smoothing", minimum=0.0)
    labels, points, _ = checked_batch(labels, embeddings, None)
    kernel = tf.convert_to_tensor(kernel)
    check_kernel(points, kernel)
    offsets = None if logit_offsets is None else tf.cast(logit_offsets, tf.float32)
    labels = tf.cast(labels, tf.int32)

    @tf.custom_gradient
    def from_weights(points: tf.Tensor, kernel: tf.Tensor) -> tuple:
        number = tf.shape(kernel)[0]
        size = tf.cast(tf.shape(points)[0], tf.float32)

        def logits_of(first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
            logits = tf.matmul(points, kernel[first:last], transpose_b=True)
            return logits if offsets is None else logits + offsets[tf.newaxis, first:last]

        def add_chunk(first: tf.Tensor, log_sum: tf.Tensor) -> tuple:
            last = tf.minimum(first + chunk_size, number)
            part = tf.reduce_logsumexp(logits_of(first, last), axis=1)
            return last, _log_add(log_sum, part)

        _, log_sums = tf.while_loop(
            lambda first, _: first < number,
            add_chunk,
            (tf.constant(0), tf.fill(tf.shape(labels), -float("inf"))),
            parallel_iterations=1,
        )
        own = tf.reduce_sum(points * tf.gather(kernel, labels), axis=1)
        average = tf.linalg.matvec(points, tf.reduce_mean(kernel, axis=0))
        if offsets is not None:
            own += tf.gather(offsets, labels)
            average += tf.reduce_mean(offsets)
        losses = log_sums - (1.0 - smoothing) * own - smoothing * average

        def gradient(upstream: tf.Tensor) -> tuple:
            even = smoothing / tf.cast(number, tf.float32)
            scale = upstream / size

            def add_gradients(
                chunk: tf.Tensor, by_points: tf.Tensor, by_kernel: tf.TensorArray
            ) -> tuple:
                first = chunk * chunk_size
                last = tf.minimum(first + chunk_size, number)
                shares = tf.exp(logits_of(first, last) - log_sums[:, tf.newaxis])
                target = tf.one_hot(
                    labels - first, last - first, on_value=1.0 - smoothing + even, off_value=even
                )
                by_logits = scale * (shares - target)
                by_points += tf.matmul(by_logits, kernel[first:last])
                by_kernel = by_kernel.write(chunk, tf.matmul(by_logits, points, transpose_a=True))
                return chunk + 1, by_points, by_kernel

            chunks = (number + chunk_size - 1) // chunk_size
            _, by_points, by_kernel = tf.while_loop(
                lambda chunk, *_: chunk < chunks,
                add_gradients,
                (
                    tf.constant(0),
                    tf.zeros_like(points),
                    tf.TensorArray(tf.float32, size=chunks, infer_shape=False),
                ),
                parallel_iterations=1,
            )
            return by_points, by_kernel.concat()

        return tf.reduce_mean(losses), gradient

    return from_weights(tf.cast(points, tf.float32), tf.cast(kernel, tf.float32))


def check_kernel(points: tf.Tensor, kernel: tf.Tensor) -> None:
    """Refuses a kernel that does not fit the embeddings.

    Raises:
      UserError: it is not [C, D].
    """
    if kernel.shape.rank != 2 or not kernel.shape[1:].is_compatible_with(points.shape[1:]):
        raise UserError(
            f"a kernel of shape {kernel.shape} came with embeddings of shape {points.shape}: give "
            "one row a class, as long as an embedding."
        )


def _log_add(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """log(exp(left) + exp(right)), left may be -inf."""
    largest = tf.maximum(left, right)
    return largest + tf.math.log(tf.exp(left - largest) + tf.exp(right - largest))
