"""The head stream's loss and logits, over all head classes or over a sample of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from longtail_tf import losses

MEASURED_IMAGES = 16


class SampledCrossEntropy(NamedTuple):
    """Cross entropy over the classes of the batch and some drawn ones (Partial FC).

    An 2021, arXiv:2010.05222; for a head so large that its softmax is what a step waits for.
    """

    num_sampled: int
    seed: int


class HeadTerms(NamedTuple):
    """What one head batch gives."""

    loss_of: Callable[[tf.Tensor], tf.Tensor]  # labels int [B] -> scalar
    logits: tf.Tensor  # [N, H] of the first N slots, over every head class: for the accuracy


def head_terms(classification_loss: Any, head: Any, neck_output: tf.Tensor, step: Any) -> HeadTerms:
    """Applies a classification loss to the head classifier.

    Args:
      classification_loss: function (labels, logits) -> scalar, or a `SampledCrossEntropy`.
      head: the classifier layer; for a sample a plain one, kernel [D, H].
      neck_output: [B, D].
      step: train step, which with the seed alone determines the sample.

    Returns:
      Terms whose logits are of all slots; with a sample, of the first MEASURED_IMAGES and without
      a gradient. Among the drawn classes alone, accuracy would look better the fewer are drawn.
    """
    if not isinstance(classification_loss, SampledCrossEntropy):
        logits = head(neck_output)
        return HeadTerms(lambda labels: classification_loss(labels, logits), logits)
    loss_of = functools.partial(
        losses.partial_cross_entropy,
        neck_output=neck_output,
        kernel=head.kernel,
        num_sampled=classification_loss.num_sampled,
        seed=classification_loss.seed,
        step=step,
    )
    return HeadTerms(loss_of, head(tf.stop_gradient(neck_output[:MEASURED_IMAGES])))


def shared_head_loss(
    head_loss: tf.Tensor,
    num_images: Any,
    classification_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    head: Any,
    *,
    labels: tf.Tensor,
    neck_output: tf.Tensor,
) -> tf.Tensor:
    """The mean classification loss over a head batch and the head images of a whole batch.

    Args:
      head_loss: of the head batch.
      num_images: images of the head batch.
      classification_loss: function (labels, logits) -> scalar, the mean over the images.
      head: the classifier layer over classes 0 .. H-1.
      labels: of the whole batch, int [B]; those of H and above have no logit and are left out.
      neck_output: of the whole batch, [B, D].
    """
    in_head = labels < tf.cast(head.kernel.shape[-1], labels.dtype)
    loss = classification_loss(
        tf.boolean_mask(labels, in_head), head(tf.boolean_mask(neck_output, in_head))
    )
    own = tf.cast(num_images, tf.float32)
    shared = tf.cast(tf.math.count_nonzero(in_head), tf.float32)
    return (own * head_loss + shared * loss) / (own + shared)
