"""What a batch's triplets look like, for logs and for the collapse sentinel."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.losses import pairwise
from longtail_tf.losses.pair_masks import count, pair_masks, partners
from longtail_tf.losses.triplet import check_settings, checked_batch


def triplet_statistics(
    labels: Any,
    embeddings: Any,
    *,
    margin: float,
    distance_metric: str = "L2",
    source_rows: Any = None,
) -> dict[str, tf.Tensor]:
    """Measures the pairs of a batch, from one matrix of distances and without a gradient.

    - `active_share`: share of the ordered positive pairs (anchor, positive) for which some negative
      is nearer to the anchor than the positive's distance plus the margin, so that the pair's hard
      triplet has a loss above 0. A pair whose semi-hard triplet has a loss is always among them, so
      at a share of 0 neither triplet loss moves anything. Pairs without any negative are not
      active, whatever tensorflow-addons makes of them in its losses.
    - `positive_distance`, `negative_distance`: mean distance over the ordered positive pairs and
      over the ordered negative ones.

    Args:
      labels: class of each slot, [B].
      embeddings: float [B, D].
      margin: at least 0, in units of the distance.
      distance_metric: "L2", "squared-L2" or "angular".
      source_rows: int [B], the image each slot came from, or None if they all differ. Two slots of
        one image are no pair.

    Returns:
      float32 scalars by name; 0 for a mean over no pair.

    Raises:
      UserError: a setting is out of range or the shapes do not fit.
    """
    check_settings(margin, distance_metric)
    labels, points, source_rows = checked_batch(labels, embeddings, source_rows)
    points = tf.stop_gradient(tf.cast(points, tf.float32))
    distances = pairwise.distances(points, distance_metric)
    positive, negative = pair_masks(partners(labels, points, source_rows))
    nearest = tf.reduce_min(tf.where(negative, distances, float("inf")), axis=1, keepdims=True)
    active = positive & (distances + margin > nearest)
    positives = tf.maximum(count(positive), 1.0)
    negatives = tf.maximum(count(negative), 1.0)
    return {
        "active_share": count(active) / positives,
        "positive_distance": tf.reduce_sum(tf.where(positive, distances, 0.0)) / positives,
        "negative_distance": tf.reduce_sum(tf.where(negative, distances, 0.0)) / negatives,
    }


def spread(features: tf.Tensor) -> tf.Tensor:
    """Root mean squared distance of the features from their mean: 0 when they have collapsed."""
    centred = features - tf.reduce_mean(features, axis=0)
    return tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(centred), axis=-1)))
