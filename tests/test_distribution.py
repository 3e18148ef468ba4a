from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import tensorflow as tf

from longtail_tf import distribution
from longtail_tf.errors import UserError
from tests import replica_runs

# Logical devices must be set before TensorFlow starts, hence a process of its own.
SCRIPT = textwrap.dedent(
    """
    import numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from longtail_tf.distribution import all_replicas
    from longtail_tf.losses import triplet_semihard_loss

    rng = np.random.default_rng(0)
    points = rng.normal(size=(16, 5)).astype(np.float32)
    labels = np.repeat(np.arange(4), 4).astype(np.int32)
    kernel = tf.Variable(rng.normal(size=(5, 3)).astype(np.float32))

    def loss_of(x, y):
        return triplet_semihard_loss(y, x @ kernel, margin=0.5)

    with tf.GradientTape() as tape:
        whole = loss_of(points, labels)
    expected = tape.gradient(whole, kernel)

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored = tf.Variable(kernel)

    def step(x, y):
        with tf.GradientTape() as tape:
            features = all_replicas(x @ mirrored)
            loss = triplet_semihard_loss(all_replicas(y), features, margin=0.5) / 2
        context = tf.distribute.get_replica_context()
        gradient = context.all_reduce("SUM", tape.gradient(loss, mirrored))
        return loss * 2, gradient

    def part(values):
        return strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(np.split(values, 2)[c.replica_id_in_sync_group]))

    losses, gradients = tf.function(lambda: strategy.run(step, (part(points), part(labels))))()
    for loss in strategy.experimental_local_results(losses):
        np.testing.assert_allclose(loss, whole, rtol=1e-6)
    for gradient in strategy.experimental_local_results(gradients):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    print("equal")
    """
)


def test_two_replicas_give_the_loss_and_gradient_of_the_global_batch():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.stdout.strip().endswith("equal"), result.stderr[-2000:]


def test_one_replica_is_the_identity():
    values = tf.constant([1, 2])
    assert distribution.all_replicas(values) is values
    assert distribution.strategy_of("one") is tf.distribute.get_strategy()
    assert not distribution.batch_norm().synchronized


@pytest.mark.parametrize(
    ("tf_config", "message"),
    [
        ("", "--replicas=workers needs the environment variable TF_CONFIG, such as {"),
        ("{", "TF_CONFIG cannot be read .JSONDecodeError.*expected JSON such as"),
        ("[]", "TF_CONFIG cannot be read"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG cannot be read .KeyError: 'task'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "names this process worker 1, which is no chief or worker of its cluster",
        ),
        (
            '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "names this process ps 0",
        ),
    ],
)
def test_a_tf_config_that_cannot_work_is_told(tf_config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(UserError, match=message):
        distribution.strategy_of("workers")


def test_workers_after_tensorflow_has_started_are_told(monkeypatch):
    tf.constant(0)
    monkeypatch.setenv("TF_CONFIG", replica_runs.tf_configs()[0])
    with pytest.raises(UserError, match="TensorFlow already runs in this process: start one fresh"):
        distribution.strategy_of("workers")
