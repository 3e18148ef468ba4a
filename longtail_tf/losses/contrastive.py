"""Metric losses on cosines that weigh every pair of a batch: SupCon and multi-similarity."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.losses.checks import check_number
from longtail_tf.losses.memory import Memory
from longtail_tf.losses.pair_masks import count, pair_masks, partners
from longtail_tf.losses.pairwise import unit_vectors
from longtail_tf.losses.triplet import checked_batch

# Multi-similarity settings of the authors' code. Wang 2019, section 4.1, prints lambda = 1, which
# puts every cosine on the far side of the threshold; their code has 0.5, and so have all
# reimplementations of note.
POSITIVE_SCALE = 2.0  # alpha
NEGATIVE_SCALE = 50.0  # beta
THRESHOLD = 0.5  # lambda, a cosine
MINING_SLACK = 0.1  # epsilon, a cosine

_NEVER = -1e30  # exp() of it is 0, and unlike -inf it has a finite difference from itself


def supcon_loss(
    labels: Any,
    embeddings: Any,
    *,
    temperature: float = 0.1,
    source_rows: Any = None,
    memory: Memory | None = None,
) -> tf.Tensor:
    """Supervised contrastive loss, the mean outside the logarithm.

    Khosla 2020, equation 2 (L_out), arXiv:2004.11362, averaged over the anchors that have a
    positive instead of summed:

        mean_i  -1/|P(i)| sum_{p in P(i)} log(exp(z_i.z_p / t) / sum_{a in A(i)} exp(z_i.z_a / t))

    P(i) are the positives of anchor i, A(i) its positives and negatives. Other slots of the
    anchor's own image are in neither.

    Args:
      labels: class of each slot, [B].
      embeddings: float [B, D], of any length: they are scaled to unit length here.
      temperature: t, above 0.
      source_rows: int [B], the image each slot came from, or None if they all differ.
      memory: embeddings of earlier batches, further positives and negatives of every anchor
        without a gradient of their own; None for none.

    Returns:
      float32 scalar; 0 with zero gradient where there is no positive pair.

    Raises:
      UserError: the temperature is out of range or the shapes do not fit.
    """
    check_number(temperature, "temperature", minimum=0.0, exclusive=True)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    units = unit_vectors(points)
    compared = partners(labels, units, source_rows, memory)
    positive, negative = pair_masks(compared, tf.range(tf.shape(labels)[0]))
    logits = tf.matmul(units, compared.embeddings, transpose_b=True) / temperature
    candidates = tf.where(positive | negative, logits, _NEVER)
    log_total = tf.reduce_logsumexp(candidates, axis=1, keepdims=True)
    positives = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
    log_shares = tf.reduce_sum(tf.where(positive, logits - log_total, 0.0), axis=1)
    anchors = tf.maximum(count(positives > 0.0), 1.0)
    return -tf.reduce_sum(log_shares / tf.maximum(positives, 1.0)) / anchors


def multi_similarity_loss(
    labels: Any,
    embeddings: Any,
    *,
    source_rows: Any = None,
    memory: Memory | None = None,
) -> tf.Tensor:
    """Multi-similarity loss with its pair mining.

    Wang 2019, sections 3.2 and 3.3, arXiv:1904.06627. A negative of anchor i is kept if its cosine
    is above that of the anchor's farthest positive less MINING_SLACK; a positive if its cosine is
    below that of the nearest negative plus MINING_SLACK. Over the kept pairs (S their cosines):

        1/B sum_i  log(1 + sum_p exp(-alpha (S_ip - lambda))) / alpha
                 + log(1 + sum_n exp(beta (S_in - lambda))) / beta

    with alpha = POSITIVE_SCALE, beta = NEGATIVE_SCALE, lambda = THRESHOLD.

    Args:
      labels: class of each slot, [B].
      embeddings: float [B, D], of any length: they are scaled to unit length here.
      source_rows: int [B], the image each slot came from, or None if they all differ. Two slots of
        one image are no pair.
      memory: embeddings of earlier batches, as in `supcon_loss`; None for none.

    Returns:
      float32 scalar; 0 with zero gradient where no anchor has a positive and a negative.

    Raises:
      UserError: the shapes do not fit.
    """
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    units = unit_vectors(points)
    compared = partners(labels, units, source_rows, memory)
    positive, negative = pair_masks(compared, tf.range(tf.shape(labels)[0]))
    cosines = tf.matmul(units, compared.embeddings, transpose_b=True)
    farthest = tf.reduce_min(tf.where(positive, cosines, -_NEVER), axis=1, keepdims=True)
    nearest = tf.reduce_max(tf.where(negative, cosines, _NEVER), axis=1, keepdims=True)
    kept_positive = positive & (cosines < nearest + MINING_SLACK)
    kept_negative = negative & (cosines > farthest - MINING_SLACK)
    beyond = cosines - THRESHOLD
    pulled = _log_one_plus_sum_exp(-POSITIVE_SCALE * beyond, kept_positive) / POSITIVE_SCALE
    pushed = _log_one_plus_sum_exp(NEGATIVE_SCALE * beyond, kept_negative) / NEGATIVE_SCALE
    size = tf.maximum(tf.cast(tf.shape(points)[0], tf.float32), 1.0)
    return tf.reduce_sum(pulled + pushed) / size


def _log_one_plus_sum_exp(values: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    """log(1 + sum of exp(values)) over the kept entries of each row, without overflow."""
    values = tf.where(kept, values, _NEVER)
    top = tf.stop_gradient(tf.maximum(tf.reduce_max(values, axis=1, keepdims=True), 0.0))
    total = tf.exp(-top) + tf.reduce_sum(tf.exp(values - top), axis=1, keepdims=True)
    return tf.squeeze(tf.math.log(total) + top, axis=1)
