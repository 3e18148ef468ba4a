"""The classification losses: plain, and those made for long tails."""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import class_weights
from longtail_tf.losses.checks import check_name, check_number
from longtail_tf.settings.choices import CLASSIFICATION_LOSSES, SMOOTHABLE_LOSSES


def classification_loss(
    name: str,
    *,
    class_counts: Any,
    label_smoothing: float = 0.0,
    beta: float = 0.9999,
    gamma: float = 2.0,
    max_margin: float = 0.5,
    scale: Any = 16.0,
    reweight_from: int | None = None,
    step: Any = None,
) -> Callable[[Any, Any], tf.Tensor]:
    """Returns a classification loss with its settings filled in.

    - cross_entropy: softmax cross entropy.
    - logit_adjusted: cross entropy of logits + log(share of the training images) (Menon 2021,
      equation 10, arXiv:2007.07314); the same as Balanced Softmax (Ren 2020). Do not adjust the
      logits of such a classifier again at test time.
    - class_balanced: cross entropy weighted by the inverse effective number of images (Cui 2019,
      arXiv:1901.05555), weights of mean 1 over the classes.
    - focal: -(1 - p)^gamma log p with p the softmax of the label (Lin 2017, equation 4,
      arXiv:1708.02002; there for sigmoids).
    - ldam: cross entropy after lowering the label's logit by scale * margin, margins proportional
      to count^(-1/4) (Cao 2019, equations 12 and 13, arXiv:1906.07413). It expects scaled cosines,
      the logits of `models.cosine_head.CosineHead`: scale * cosine, its scale learned from 16 on.
      `scale` is then best the head's own variable; a number is used as it is. On the logits
      of a plain linear classifier, which are no cosines, the margins have no fixed meaning.

    Args:
      name: one of CLASSIFICATION_LOSSES.
      class_counts: training images of each class, int [H]; not used by cross_entropy and focal.
      label_smoothing: share of each label spread evenly over all classes, 0 to below 1; for
        cross_entropy and class_balanced.
      beta: of class_balanced, 0 to below 1.
      gamma: of focal, at least 0; 0 is cross entropy.
      max_margin: of ldam, the rarest class's margin, a cosine.
      scale: of ldam, logits per cosine: a number above 0, or a scalar tensor or variable.
      reweight_from: the step from which on every image counts by its class's
        `class_weights.deferred_weights` (Cao 2019, algorithm 1); None: never.
      step: scalar variable that holds the number of steps done; read at every call.

    Returns:
      Function (labels int [B], logits [B, H]) -> float32 scalar, the mean over the batch (of the
      weighted losses, not divided by the weights), computed in float32; 0 for an empty batch.

    Raises:
      UserError: an unknown name, counts below 1, a setting out of range, or label smoothing with a
        loss that has no sensible one.
    """
    check_name(name, CLASSIFICATION_LOSSES, "classification_loss")
    if not 0.0 <= check_number(label_smoothing, "label_smoothing", minimum=0.0) < 1.0:
        raise UserError(f"label_smoothing={label_smoothing!r} was given: give 0 to below 1.")
    if label_smoothing and name not in SMOOTHABLE_LOSSES:
        # logit_adjusted: labels smoothed evenly under the training prior would be met best by
        # logits that rise as a class gets rarer, up to the true class's own.
        raise UserError(
            f"label_smoothing={label_smoothing!r} was given with classification_loss={name!r}, "
            "where evenly smoothed labels would undo what the loss does: set it to 0, or choose "
            f"{' or '.join(SMOOTHABLE_LOSSES)}."
        )
    num_classes = None if class_counts is None else len(np.atleast_1d(class_counts))
    if name == "cross_entropy":
        each = functools.partial(_cross_entropy, label_smoothing=label_smoothing)
    elif name == "logit_adjusted":
        each = functools.partial(_logit_adjusted, offsets=class_weights.prior_offsets(class_counts))
    elif name == "class_balanced":
        each = functools.partial(
            _class_balanced,
            weights=class_weights.effective_number_weights(class_counts, beta=beta),
            label_smoothing=label_smoothing,
        )
    elif name == "focal":
        each = functools.partial(_focal, gamma=check_number(gamma, "gamma", minimum=0.0))
    else:
        if not tf.is_tensor(scale) and not isinstance(scale, tf.Variable):
            check_number(scale, "scale", minimum=0.0, exclusive=True)
        each = functools.partial(
            _ldam,
            margins=class_weights.ldam_margins(class_counts, max_margin=max_margin),
            scale=scale,
        )

    late = None if reweight_from is None else class_weights.deferred_weights(class_counts)

    def loss(labels: Any, logits: Any) -> tf.Tensor:
        labels, logits = _checked(labels, logits, num_classes)
        size = tf.maximum(tf.cast(tf.shape(logits)[0], tf.float32), 1.0)
        losses = each(labels, logits)
        if late is not None:
            begun = tf.cast(step, tf.int64) >= reweight_from
            losses *= tf.where(begun, tf.gather(late, labels), 1.0)
        return tf.reduce_sum(losses) / size

    return loss


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float) -> tf.Tensor:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    if not label_smoothing:
        return losses
    spread = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
    return (1.0 - label_smoothing) * losses + label_smoothing * spread


def _logit_adjusted(labels: tf.Tensor, logits: tf.Tensor, *, offsets: np.ndarray) -> tf.Tensor:
    return _cross_entropy(labels, logits + offsets, label_smoothing=0.0)


def _class_balanced(
    labels: tf.Tensor, logits: tf.Tensor, *, weights: np.ndarray, label_smoothing: float
) -> tf.Tensor:
    losses = _cross_entropy(labels, logits, label_smoothing=label_smoothing)
    return tf.gather(weights, labels) * losses


def _focal(labels: tf.Tensor, logits: tf.Tensor, *, gamma: float) -> tf.Tensor:
    losses = _cross_entropy(labels, logits, label_smoothing=0.0)
    # Never quite 0: a root of 0 (gamma below 1) has no finite gradient.
    rest = tf.maximum(-tf.math.expm1(-losses), 1e-12)
    return tf.pow(rest, gamma) * losses


def _ldam(labels: tf.Tensor, logits: tf.Tensor, *, margins: np.ndarray, scale: Any) -> tf.Tensor:
    lowered = tf.one_hot(labels, tf.shape(logits)[1]) * margins
    return _cross_entropy(
        labels, logits - tf.cast(scale, tf.float32) * lowered, label_smoothing=0.0
    )


def _checked(labels: Any, logits: Any, num_classes: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels int32 [B] and logits float32 [B, H]; what is known of their shapes must fit."""
    logits = tf.convert_to_tensor(logits)
    labels = tf.reshape(tf.cast(labels, tf.int32), [-1])
    if logits.shape.rank not in (None, 2) or not logits.dtype.is_floating:
        raise UserError(
            f"logits of shape {logits.shape} and type {logits.dtype.name} came: a classification "
            "loss needs floating point logits [B, H], one column a class."
        )
    if not logits.shape[:1].is_compatible_with(labels.shape):
        raise UserError(
            f"{labels.shape[0]} labels came with {logits.shape[0]} rows of logits: give one label "
            "a row."
        )
    if not logits.shape[1:].is_compatible_with([num_classes]):
        raise UserError(
            f"logits of {logits.shape[1]} classes came, but class_counts has {num_classes}: give "
            "one count a column."
        )
    return labels, tf.cast(logits, tf.float32)
