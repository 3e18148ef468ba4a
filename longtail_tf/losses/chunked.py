"""Softmax cross entropy over so many classes that their logits should not exist all at once."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional

import tensorflow as tf

from longtail_tf.errors import UserError

_LOWEST = -1e30  # below any logit; -inf less itself would be NaN


def chunked_cross_entropy(
    labels: Any,
    neck_output: Any,
    kernel: Any,
    *,
    chunk: int = 8192,
    class_offsets: Any = None,
) -> tf.Tensor:
    """Mean softmax cross entropy of neck_output @ kernel, a chunk of classes at a time.

    Value and gradient are those of the full softmax, to rounding. Of [B, C] no more than one chunk,
    [B, chunk] logits and their exponentials, exists at a time; backward makes each chunk again, at
    the price of one matrix product in four. The gradient by the kernel is dense, [D, C].

    The loop over chunks is unrolled: some 20 operations a chunk in a traced graph.

    Args:
      labels: int [B], 0 to C - 1.
      neck_output: float [B, D], any precision; computed in float32.
      kernel: tensor or variable [D, C], C known when tracing.
      chunk: classes at a time, at least 1. 8192 holds a chunk of 128 slots in 4 MB.
      class_offsets: float [C] added to the logits, such as `class_weights.prior_offsets` for the
        logit-adjusted loss; no gradient flows to them. None for none.

    Returns:
      float32 scalar; 0 for an empty batch.

    Raises:
      UserError: the shapes do not fit, or a chunk below 1.
    """
    labels, points, kernel = checked_head(labels, neck_output, kernel)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise UserError(f"chunk={chunk!r} was given: give a whole number of classes, at least 1.")
    if class_offsets is not None:
        class_offsets = tf.stop_gradient(tf.cast(class_offsets, tf.float32))
        if not class_offsets.shape.is_compatible_with(kernel.shape[1:]):
            raise UserError(
                f"class_offsets of shape {class_offsets.shape} came with a kernel of "
                f"{kernel.shape[1]} classes: give one offset a class, or None."
            )
    return _cross_entropy(chunk)(labels, tf.cast(points, tf.float32), kernel, class_offsets)


def checked_head(labels: Any, neck_output: Any, kernel: Any) -> tuple:
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


@functools.lru_cache(maxsize=16)
def _cross_entropy(chunk: int) -> Callable:
    """The loss for one chunk size; a graph even when called eagerly, so that buffers are reused."""

    def log_totals(points: tf.Tensor, kernel: tf.Tensor, offsets: Optional[tf.Tensor]) -> tf.Tensor:
        """Logarithm of each row's sum of exponentials, [B, 1], in one pass over the chunks."""
        top = tf.fill([tf.shape(points)[0], 1], _LOWEST)
        total = tf.zeros_like(top)
        for begin in range(0, kernel.shape[1], chunk):
            with tf.control_dependencies([total]):  # one chunk after the other
                columns = _columns(kernel, begin, chunk)
            logits = _logits(points, columns, offsets, begin)
            higher = tf.maximum(top, tf.reduce_max(logits, axis=1, keepdims=True))
            summed = tf.reduce_sum(tf.exp(logits - higher), axis=1, keepdims=True)
            total = total * tf.exp(top - higher) + summed
            top = higher
        return top + tf.math.log(total)

    @tf.function(autograph=False)
    def forward(
        labels: tf.Tensor, points: tf.Tensor, kernel: tf.Tensor, offsets: Optional[tf.Tensor]
    ) -> tuple:
        totals = log_totals(points, kernel, offsets)
        own = tf.cast(tf.gather(kernel, labels, axis=1), tf.float32)  # [D, B]
        logits = tf.reduce_sum(points * tf.transpose(own), axis=1)
        if offsets is not None:
            logits += tf.gather(offsets, labels)
        losses = tf.squeeze(totals, axis=1) - logits
        return tf.reduce_sum(losses) * _share(points), totals

    @tf.function(autograph=False)
    def backward(
        upstream: tf.Tensor,
        labels: tf.Tensor,
        points: tf.Tensor,
        kernel: tf.Tensor,
        offsets: Optional[tf.Tensor],
        totals: tf.Tensor,
    ) -> tuple:
        factor = upstream * _share(points)
        by_points = tf.zeros_like(points)
        # Not zeros, which would be one more constant of this size; every column is written below,
        # in place, as nothing else holds on to the tensor.
        by_kernel = tf.raw_ops.Empty(shape=kernel.shape, dtype=kernel.dtype)
        scaled = factor * points
        for begin in range(0, kernel.shape[1], chunk):
            with tf.control_dependencies([by_kernel, by_points]):  # one chunk after the other
                columns = _columns(kernel, begin, chunk)
                own = tf.one_hot(labels - begin, columns.shape[1])
            width = columns.shape[1]
            beyond = tf.exp(_logits(points, columns, offsets, begin) - totals) - own
            by_points += tf.matmul(beyond, columns, transpose_b=True)
            by_kernel = tf.raw_ops.TensorStridedSliceUpdate(
                input=by_kernel,
                begin=[0, begin],
                end=[kernel.shape[0], begin + width],
                strides=[1, 1],
                value=tf.cast(tf.matmul(scaled, beyond, transpose_a=True), kernel.dtype),
            )
        return factor * by_points, by_kernel

    def loss(
        labels: tf.Tensor, points: tf.Tensor, kernel: tf.Tensor, offsets: Optional[tf.Tensor]
    ) -> tf.Tensor:
        @tf.custom_gradient
        def of_head(points: tf.Tensor, kernel: tf.Tensor) -> tuple:
            value, totals = forward(labels, points, kernel, offsets)
            return value, lambda upstream: backward(
                upstream, labels, points, kernel, offsets, totals
            )

        return of_head(points, kernel)

    return loss


def _columns(kernel: tf.Tensor, begin: int, chunk: int) -> tf.Tensor:
    return tf.cast(kernel[:, begin : begin + chunk], tf.float32)


def _logits(
    points: tf.Tensor, columns: tf.Tensor, offsets: Optional[tf.Tensor], begin: int
) -> tf.Tensor:
    logits = tf.matmul(points, columns)
    return logits if offsets is None else logits + offsets[begin : begin + columns.shape[1]]


def _share(points: tf.Tensor) -> tf.Tensor:
    """What one slot counts in the mean."""
    return 1.0 / tf.maximum(tf.cast(tf.shape(points)[0], tf.float32), 1.0)
