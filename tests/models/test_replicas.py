from __future__ import annotations

import sys

import pytest
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.models import replicas
from tests import replica_runs, stacks, waiting

# Logical devices must be set before TensorFlow starts, hence processes of their own.
TWO_DEVICES = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from longtail_tf import losses
from longtail_tf.models import replicas
from longtail_tf.models.two_stream_model import TwoStreamModel

strategy = replicas.strategy_of("devices")
assert strategy.num_replicas_in_sync == 2
rng = np.random.default_rng(0)

def part(values):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(values, 2)[context.replica_id_in_sync_group]))

def local(values):
    return [value.numpy() for value in strategy.experimental_local_results(values)]
"""

GATHER = """
points = rng.normal(size=(16, 5)).astype(np.float32)
labels = np.repeat(np.arange(4), 4).astype(np.int32)
kernel = tf.Variable(rng.normal(size=(5, 3)).astype(np.float32))
with strategy.scope():
    mirrored = tf.Variable(kernel)

for name in ("triplet_semihard", "triplet_hard", "supcon", "multi_similarity"):
    loss_of = losses.metric_loss(name, margin=0.5)
    with tf.GradientTape() as tape:
        whole = loss_of(labels, points @ kernel)
    expected = tape.gradient(whole, kernel)

    @tf.function
    def step(x, y):
        def of_replica(x, y):
            with tf.GradientTape() as tape:
                features = replicas.all_replicas(x @ mirrored)
                assert features.shape == [16, 3]  # static: losses choose their way by it
                loss = loss_of(replicas.all_replicas(y), features) / 2
            context = tf.distribute.get_replica_context()
            gradient = context.all_reduce("SUM", tape.gradient(loss, mirrored))
            return loss * 2, gradient
        return strategy.run(of_replica, (x, y))

    found, gradients = step(part(points), part(labels))
    for loss, gradient in zip(local(found), local(gradients)):
        np.testing.assert_allclose(loss, whole, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
print("equal")
"""

NORM = """
images = rng.normal(3, 0.2, size=(8, 16, 16, 3)).astype(np.float32)
whole = tf.keras.layers.BatchNormalization()(images, training=True)
for precision, tolerance in (("float32", 1e-3), ("mixed_bfloat16", 0.1)):
    tf.keras.mixed_precision.set_global_policy(precision)
    with strategy.scope():
        norm = replicas.batch_norm()
        norm.build(images.shape)  # Keras 3 under a strategy makes no variables while tracing
    run = tf.function(lambda x: strategy.run(lambda x: norm(x, training=True), (x,)))
    kept = tf.cast(images, "bfloat16" if "16" in precision else "float32")
    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.split(kept, 2)[context.replica_id_in_sync_group])
    np.testing.assert_allclose(np.concatenate(local(run(parts))), whole, atol=tolerance)
print("equal")
"""

# SGD at rate 1 changes a weight by its gradient. Dense layers: no batch norm that would blur it.
MODEL = """
images = rng.uniform(0, 255, size=(16, 4, 4, 1)).astype(np.float32)
labels, rows = np.repeat(np.arange(4), 4).astype(np.int32), np.arange(16)

def model(mine):
    tf.keras.utils.set_random_seed(0)
    embedder = tf.keras.Sequential([
        tf.keras.layers.Rescaling(1 / 255, input_shape=(4, 4, 1)), tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(6, "relu"), tf.keras.layers.Dense(3)])
    model = TwoStreamModel(embedder, num_head_classes=4, neck=False)
    model.compile(
        head_optimizer=tf.keras.optimizers.SGD(1.0),
        whole_optimizer=tf.keras.optimizers.SGD(1.0),
        classification_loss=losses.classification_loss("cross_entropy", class_counts=[4] * 4),
        metric_loss=losses.metric_loss("triplet_semihard", margin=0.5),
        margin=0.5,
        mine=mine,
    )
    return model

def trained(mine, streams):
    with strategy.scope():
        replicas = model(mine)
        split = {name: tuple(part(each) for each in (images, labels, rows)) for name in streams}
        tf.function(lambda x: strategy.run(replicas.train_step, (x,)))(split)
        numbers = {metric.name: float(metric.result()) for metric in replicas.metrics}
    assert int(tf.convert_to_tensor(replicas.step)) == 1
    return [v.numpy() for v in replicas.trainable_variables], numbers

def halves():
    both = [np.split(each, 2) for each in (images, labels, rows)]
    return [tuple(tf.constant(each[i]) for each in both) for i in range(2)]

batch = tuple(tf.constant(each) for each in (images, labels, rows))
alone = model("global")
alone.train_step({"head": batch, "whole": batch})
expected = {metric.name: float(metric.result()) for metric in alone.metrics}
weights, numbers = trained("global", ("head", "whole"))
# Sums over 16 images of 16 pixels, in halves: 256 terms * eps; another gradient differs by 1e-3.
for ours, theirs in zip(weights, alone.trainable_variables):
    np.testing.assert_allclose(ours, theirs, atol=3e-5)
for name, value in expected.items():
    np.testing.assert_allclose(numbers[name], value, rtol=1e-4, atol=1e-6, err_msg=name)

# Mined by replica: the mean of what each half of the batch says on its own.
start = [v.numpy() for v in model("replica").trainable_variables]
each_half = []
for half in halves():
    alone = model("replica")
    alone.train_step({"whole": half})
    each_half.append([v.numpy() for v in alone.trainable_variables])
weights, _ = trained("replica", ("whole",))
by_halves = [(a + b) / 2 for a, b in zip(*each_half)]
for ours, theirs in zip(weights, by_halves):
    np.testing.assert_allclose(ours, theirs, atol=3e-5)
other, _ = trained("global", ("whole",))
assert max(np.abs(a - b).max() for a, b in zip(weights, other)) > 1e-3
print("equal")
"""


@pytest.mark.parametrize("script", [GATHER, NORM, MODEL], ids=["gather", "norm", "model"])
def test_two_replicas_are_the_global_batch(script):
    result = waiting.run([sys.executable, "-c", TWO_DEVICES + script])
    assert result.stdout.strip().endswith("equal"), result.stderr[-3000:]


def test_one_replica_is_the_identity():
    values = tf.constant([1, 2])
    assert replicas.all_replicas(values) is values
    assert replicas.strategy_of("one") is tf.distribute.get_strategy()
    assert not replicas.batch_norm().synchronized


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
def test_a_tf_config_that_cannot_work_is_reported(tf_config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(UserError, match=message):
        replicas.strategy_of("workers")


def test_workers_under_keras_3_are_refused(monkeypatch):
    monkeypatch.setattr(keras_version, "KERAS_3", True)
    monkeypatch.setenv("TF_CONFIG", replica_runs.tf_configs()[0])
    with pytest.raises(UserError, match="--replicas=workers does not train with Keras 3: start"):
        replicas.strategy_of("workers")


@stacks.needs_workers
def test_workers_after_tensorflow_has_started_are_reported(monkeypatch):
    tf.constant(0)
    monkeypatch.setenv("TF_CONFIG", replica_runs.tf_configs()[0])
    with pytest.raises(UserError, match="TensorFlow already runs in this process: start one fresh"):
        replicas.strategy_of("workers")
