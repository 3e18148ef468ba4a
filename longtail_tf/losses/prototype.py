"""A metric loss against one moving prototype a class, without a trained classifier."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses.checks import check_number
from longtail_tf.losses.triplet import checked_batch
from longtail_tf.settings.choices import MEMORY_LOSSES


def prototype_loss(
    labels: Any,
    embeddings: Any,
    prototypes: Any,
    *,
    temperature: float = 0.1,
    log_priors: Any = None,
) -> tf.Tensor:
    """Cross entropy of the cosines to the prototypes of all classes, mean over slots.

    The softmax of Snell 2017, equation 2, arXiv:1703.05175, on cosines, over prototypes that move
    by `ema_prototypes` instead of being drawn from the batch.

    Args:
      labels: class of each slot, int [B], 0 .. C - 1.
      embeddings: [B, D], normalised here; computed in float32.
      prototypes: [C, D], unit rows; an all-zero row is a class not seen yet: it takes part in no
        softmax, and slots of such a class are left out of the mean. They get no gradient.
      temperature: divides the cosines, above 0.
      log_priors: [C] to add to the logits, for a logit-adjusted loss; None for none.

    Returns:
      Scalar float32; 0 where no slot's class has a prototype. Logits are [B, C].

    Raises:
      UserError: temperature out of range or shapes that do not fit.
    """
    check_number(temperature, "temperature", minimum=0.0, exclusive=True)
    labels, points, prototypes = _checked(labels, embeddings, prototypes)
    unit = tf.math.l2_normalize(points, axis=1)
    seen = tf.reduce_any(prototypes != 0.0, axis=1)
    logits = tf.matmul(unit, prototypes, transpose_b=True) / temperature
    if log_priors is not None:
        logits += tf.cast(log_priors, tf.float32)[tf.newaxis, :]
    logits = tf.where(seen[tf.newaxis, :], logits, -1e30)
    counted = tf.gather(seen, labels)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    number = tf.reduce_sum(tf.cast(counted, tf.float32))
    return tf.reduce_sum(tf.where(counted, losses, 0.0)) / tf.maximum(number, 1.0)


def ema_prototypes(
    prototypes: Any, labels: Any, embeddings: Any, *, momentum: float = 0.9
) -> tf.Tensor:
    """Prototypes after a batch: those of its classes move towards the mean of its embeddings.

    Args:
      prototypes: float32 [C, D], unit rows or zero rows for classes not seen yet.
      labels: int [B].
      embeddings: [B, D], normalised here.
      momentum: share of the old prototype, 0..1; a class seen first takes the batch mean as it is.

    Returns:
      float32 [C, D], unit rows where a class has been seen, without gradient.

    Raises:
      UserError: the momentum is out of range or shapes that do not fit.
    """
    if check_number(momentum, "momentum", minimum=0.0) > 1.0:
        raise UserError(f"momentum={momentum!r} was given: give a number of 0 to 1.")
    labels, points, prototypes = _checked(labels, embeddings, prototypes)
    unit = tf.math.l2_normalize(tf.stop_gradient(points), axis=1)
    same = tf.cast(labels[:, tf.newaxis] == labels, tf.float32)
    means = tf.matmul(same, unit) / tf.reduce_sum(same, axis=1, keepdims=True)
    old = tf.gather(prototypes, labels)
    unseen = tf.reduce_all(old == 0.0, axis=1, keepdims=True)
    moved = tf.where(unseen, means, momentum * old + (1.0 - momentum) * means)
    moved = tf.math.l2_normalize(moved, axis=1)
    # Slots of one class all write the same, to rounding: the last to write stays.
    return tf.tensor_scatter_nd_update(prototypes, labels[:, tf.newaxis], moved)


class PrototypeLoss:
    """`prototype_loss` over prototypes it keeps and moves after each batch.

    Args:
      num_classes: C.
      embedding_dim: D.
      temperature: divides the cosines, above 0.
      momentum: share of the old prototype that stays, 0..1.

    Raises:
      UserError: a number out of range.

    Attributes:
      prototypes: float32 [C, D], unit rows, or zero rows for classes not met yet.
      state: the prototypes as a trackable, for checkpoints. They are no weights of the network.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        temperature: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        check_number(temperature, "temperature", minimum=0.0, exclusive=True)
        if min(num_classes, embedding_dim) < 1:
            raise UserError(
                "metric_loss='prototype' keeps one prototype a class: give num_classes and "
                "embedding_dim, each at least 1."
            )
        self._temperature, self._momentum = temperature, momentum
        self.prototypes = tf.Variable(
            tf.zeros([num_classes, embedding_dim]),
            trainable=False,
            name="class_prototypes",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.state = tf.train.Checkpoint(prototypes=self.prototypes)

    def __call__(
        self, labels: Any, embeddings: Any, source_rows: Any = None, memory: Any = None
    ) -> tf.Tensor:
        """The loss of a batch; its classes' prototypes then move.

        A class not seen before is measured against the prototypes as this batch leaves them.

        Raises:
          UserError: a memory of pairs came, which this loss has no use for.
        """
        if memory is not None:
            raise UserError(
                "metric_loss='prototype' takes no pairs from a memory: choose one of "
                f"{', '.join(MEMORY_LOSSES)}, or give no memory."
            )
        before = tf.convert_to_tensor(self.prototypes)
        after = ema_prototypes(before, labels, embeddings, momentum=self._momentum)
        seen = tf.reduce_any(before != 0.0, axis=1, keepdims=True)
        loss = prototype_loss(
            labels, embeddings, tf.where(seen, before, after), temperature=self._temperature
        )
        self.prototypes.assign(after)
        return loss


def _checked(labels: Any, embeddings: Any, prototypes: Any) -> tuple:
    """Labels int32 [B], embeddings float32 [B, D], prototypes float32 [C, D] without gradient."""
    labels, points, _ = checked_batch(labels, embeddings, None)
    prototypes = tf.stop_gradient(tf.cast(prototypes, tf.float32))
    if prototypes.shape.rank != 2 or not points.shape[1:].is_compatible_with(prototypes.shape[1:]):
        raise UserError(
            f"prototypes of shape {prototypes.shape} came with embeddings of shape {points.shape}: "
            "give prototypes [C, D], one row a class, as long as an embedding."
        )
    return tf.cast(labels, tf.int32), tf.cast(points, tf.float32), prototypes
