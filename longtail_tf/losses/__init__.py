"""Losses: metric losses in O(B^2) memory, and classification losses for long tails."""

from __future__ import annotations

from typing import Any, Callable

from longtail_tf.losses.triplet import triplet_hard_loss, triplet_semihard_loss


def metric_loss(name: str, *, margin: float, distance_metric: str, images_per_class=None, temperature=0.1) -> Callable:
    import functools
    base = {"triplet_semihard": triplet_semihard_loss, "triplet_hard": triplet_hard_loss,
            "triplet_hard_soft": functools.partial(triplet_hard_loss, soft=True)}[name]
    extra = {"images_per_class": images_per_class} if name == "triplet_semihard" else {}
    return lambda labels, embeddings, rows: base(labels, embeddings, margin=margin, distance_metric=distance_metric, source_rows=rows, **extra)


def classification_loss(name: str, *, class_counts: Any, label_smoothing: float = 0.0) -> Callable:
    import tensorflow as tf

    def cross_entropy(labels, logits):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

    return {"cross_entropy": cross_entropy}[name]


def triplet_statistics(labels, embeddings, *, margin, distance_metric):
    import tensorflow as tf

    squared = tf.reduce_sum(tf.square(embeddings), -1)
    d = tf.sqrt(tf.maximum(squared[:, None] + squared[None] - 2 * tf.matmul(embeddings, embeddings, transpose_b=True), 1e-12))
    same = tf.cast(labels[:, None] == labels[None], tf.float32)
    other = 1 - same
    same = same - tf.eye(tf.shape(labels)[0])
    positive = tf.math.divide_no_nan(tf.reduce_sum(d * same), tf.reduce_sum(same))
    negative = tf.math.divide_no_nan(tf.reduce_sum(d * other), tf.reduce_sum(other))
    hardest = tf.reduce_max(d * same, 1)
    nearest = tf.reduce_min(d + 1e9 * (1 - other), 1)
    active = tf.reduce_mean(tf.cast(hardest + margin > nearest, tf.float32))
    return {"active_share": active, "positive_distance": positive, "negative_distance": negative}
