"""Replicas of one network under tf.distribute: which there are, and what crosses between them."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def strategy_of(replicas: str) -> tf.distribute.Strategy:
    """The strategy that trains `replicas`.

    Args:
      replicas: "one"; "devices", one for each GPU of this machine (each logical CPU where there is
        no GPU); or "workers", one for each GPU (or the CPU) of every process in TF_CONFIG. For
        workers this waits until all of them have started, and TensorFlow must not run yet.

    Raises:
      UserError: TF_CONFIG is missing, malformed, or read too late; workers under Keras 3.
    """
    if replicas == "one":
        return tf.distribute.get_strategy()
    # Its INFO lines, shown because ours are, name every all-reduce of every graph.
    tf.get_logger().setLevel("WARNING")
    if replicas == "devices":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    _check_tf_config(os.environ.get("TF_CONFIG", ""))
    if keras_version.KERAS_3:  # its fit cannot reduce the batches and metrics of several workers
        raise UserError(
            "--replicas=workers does not train with Keras 3: start every worker with Python 3.9 to "
            "3.11, which brings Keras 2.15, or use --replicas=devices on one machine."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            "--replicas=workers, but TensorFlow already runs in this process: start one fresh "
            "process for each worker."
        ) from error


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
    joined = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.pad(values, padding))
    if values.shape[0] is not None:  # a static size lets the losses choose their fastest way
        joined = tf.ensure_shape(joined, [replicas * values.shape[0], *values.shape[1:]])
    return joined


def batch_norm(**settings: Any) -> tf.keras.layers.Layer:
    """Batch normalisation over the images of all replicas of the strategy in scope.

    With one replica it is Keras' plain layer, whose fused kernel is faster. The two differ in one
    thing: the fused kernel keeps the unbiased variance, n / (n - 1) times the other, as its moving
    average.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tf.keras.layers.BatchNormalization(**settings)
    return tf.keras.layers.BatchNormalization(**settings, synchronized=True)


def _check_tf_config(text: str) -> None:
    """Refuses a TF_CONFIG on which TensorFlow would fail without saying why, or wait for ever."""
    if not text:
        raise UserError(
            f"--replicas=workers needs the environment variable TF_CONFIG, such as {_EXAMPLE}; for "
            "the devices of one machine use --replicas=devices."
        )
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        addresses = cluster[task["type"]]
        known = task["type"] in ("chief", "worker") and 0 <= int(task["index"]) < len(addresses)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG cannot be read ({type(error).__name__}: {error}): expected JSON such as "
            f"{_EXAMPLE}."
        ) from error
    if not known:
        raise UserError(
            f"TF_CONFIG names this process {task['type']} {task['index']}, which is no chief or "
            f"worker of its cluster {json.dumps(cluster)}: set task to one of them."
        )
