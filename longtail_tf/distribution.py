"""Batches across the replicas of a tf.distribute strategy."""

from __future__ import annotations

import tensorflow as tf


def all_replicas(values: tf.Tensor) -> tf.Tensor:
    """Joins `values` [B, ...] of all replicas, in replica order, to [R * B, ...].

    The gradient is exact: that of the gather is an all-reduce SUM and a slice, so a loss computed
    in full on every replica and divided by R gives each replica its part of the single-process
    gradient. Zero-padded blocks are summed because `all_gather` fails under
    MultiWorkerMirroredStrategy on CPU. Every replica must bring the same B. In the default
    (single-replica) strategy this is the identity.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return values
    size = tf.shape(values)[0]
    before = size * tf.cast(context.replica_id_in_sync_group, tf.int32)
    padding = [[before, (replicas - 1) * size - before]] + [[0, 0]] * (len(values.shape) - 1)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.pad(values, padding))
