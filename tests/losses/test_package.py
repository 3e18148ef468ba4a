"""What longtail_tf.losses exports, when it loads TensorFlow, the Keras classes, the statistics."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.errors import UserError
from longtail_tf.losses import pair_masks
from tests import loss_oracles

LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 3]
SOURCES = [0, 1, 1, 2, 3, 4, 4, 4, 5]
METRICS = ("L2", "squared-L2", "angular")


def points(seed=0, width=4):
    return np.random.default_rng(seed).normal(size=(len(LABELS), width)).astype(np.float32)


# --- the package ---------------------------------------------------------------------------------


def test_names_load_without_tensorflow():
    code = (
        "import sys, longtail_tf.losses.checks, longtail_tf.losses as losses\n"
        "assert 'metric_loss' in dir(losses)\n"
        "print('tensorflow' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_every_export_is_there_and_none_is_hidden_by_a_module():
    for name in losses.__all__:
        home = importlib.import_module(f"longtail_tf.losses.{losses._HOMES[name]}")
        assert getattr(losses, name) is getattr(home, name), name
        assert callable(getattr(losses, name)), name
        assert name in dir(losses)
    assert sorted(losses._HOMES) == losses.__all__
    with pytest.raises(AttributeError, match="no attribute 'focal_loss'"):
        _ = losses.focal_loss


# --- Keras classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TripletSemiHardLoss", "TripletHardLoss"])
def test_classes_stand_in_for_tensorflow_addons(name, addons):
    ours, theirs = getattr(losses, name), getattr(addons, name)
    labels = tf.constant(LABELS)
    assert ours().margin == 1.0  # tensorflow-addons' default
    for args in ((), (0.4,)):
        expected = theirs(*args)(labels, points())
        assert float(ours(*args)(labels, points())) == pytest.approx(float(expected), rel=1e-6)
    column = ours(0.4)(labels[:, None], points())
    assert float(column) == float(ours(0.4)(labels, points()))


def test_classes_are_the_functions_with_settings():
    settings = {"margin": 0.3, "distance_metric": "squared-L2"}
    expected = losses.triplet_semihard_loss(LABELS, points(), source_rows=SOURCES, **settings)
    loss = losses.TripletSemiHardLoss(**settings)
    assert float(loss(LABELS, points(), SOURCES)) == float(expected)
    assert float(loss(LABELS, points(), source_rows=np.array(SOURCES))) == float(expected)
    assert float(loss(LABELS, points())) != float(expected)
    assert float(loss.call(LABELS, points())) == float(loss(LABELS, points()))
    for soft in (False, True):
        expected = losses.triplet_hard_loss(
            LABELS, points(), soft=soft, source_rows=SOURCES, **settings
        )
        loss = losses.TripletHardLoss(soft=soft, **settings)
        assert float(loss(LABELS, points(), SOURCES)) == float(expected)


@pytest.mark.parametrize(
    "loss",
    [
        losses.TripletSemiHardLoss(0.3, "angular", "mine"),
        losses.TripletSemiHardLoss(),
        losses.TripletHardLoss(0.3, True, "squared-L2", "mine"),
        losses.TripletHardLoss(),
    ],
)
def test_config_round_trip(loss):
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert again.name == loss.name


def test_one_weight_for_the_whole_loss_in_either_place():
    loss = losses.TripletSemiHardLoss(0.5)
    expected = 0.25 * float(loss(LABELS, points()))
    assert float(loss(LABELS, points(), sample_weight=0.25)) == pytest.approx(expected)
    assert float(loss(LABELS, points(), 0.25)) == pytest.approx(expected)  # Keras 3's call
    assert float(loss(LABELS, points(), None, None)) == pytest.approx(4 * expected)


def test_weights_for_each_image_are_refused_in_words():
    for loss in (losses.TripletSemiHardLoss(), losses.TripletHardLoss()):
        weights = np.ones(len(LABELS), np.float32)
        for call in (lambda: loss(LABELS, points(), weights),  # noqa: B023
                     lambda: loss(LABELS, points(), sample_weight=weights),  # noqa: B023
                     lambda: loss(LABELS, points(), SOURCES, weights)):  # noqa: B023  # fmt: skip
            with pytest.raises(UserError, match=r"weights of shape \(9,\) .* source_rows must be"):
                call()


def test_bad_settings_of_the_classes_are_refused_in_words():
    for make in (losses.TripletSemiHardLoss, losses.TripletHardLoss):
        with pytest.raises(UserError, match="margin=-1 was given"):
            make(margin=-1)
        with pytest.raises(UserError, match="distance_metric='L1' is unknown"):
            make(distance_metric="L1")
    with pytest.raises(UserError, match="soft='L2' was given: give True"):
        losses.TripletHardLoss(0.2, "L2")


def check_fit_on_two_replicas():
    labels = np.array([0, 0, 1, 1, 5, 5, 5, 6])
    images = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
    start = np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)
    loss = losses.TripletSemiHardLoss(1.0)
    kernel = tf.Variable(start)
    with tf.GradientTape() as tape:
        halves = [loss(labels[part], images[part] @ kernel) for part in (slice(4), slice(4, 8))]
        mean = (halves[0] + halves[1]) / 2
    expected = start - 0.1 * tape.gradient(mean, kernel)

    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        layer = tf.keras.layers.Dense(3, use_bias=False)
        model = tf.keras.Sequential([tf.keras.Input((4,)), layer])
        model.compile(tf.keras.optimizers.SGD(0.1), loss=losses.TripletSemiHardLoss(1.0))
    layer.set_weights([start])
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], expected, rtol=1e-5, atol=1e-6)


def test_fit_on_replicas_takes_the_mean_of_their_losses():
    """A class as `compile(loss=...)` under tf.distribute: the update is that of the mean.

    Logical devices must be set before TensorFlow starts, so in a process of its own.
    """
    code = (
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "from tests.losses import test_package as tests\n"
        "tests.check_fit_on_two_replicas()\n"
        "print('equal')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip().endswith("equal"), run.stderr[-2000:]


# --- statistics ----------------------------------------------------------------------------------


def statistics(embeddings, labels=LABELS, sources=None, **settings):
    found = losses.triplet_statistics(
        labels, embeddings, **{"margin": 0.2, **settings}, source_rows=sources
    )
    assert all(value.dtype == tf.float32 and value.shape == () for value in found.values())
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sources", [None, SOURCES])
def test_statistics_against_loops(metric, sources):
    centres = np.random.default_rng(5).normal(size=(4, 4))[LABELS]
    embeddings, margin = centres + 0.8 * points(1).astype(float), 0.1
    rows = sources or range(len(LABELS))
    active, positive, negative = [], [], []
    for a, anchor in enumerate(embeddings):

        def apart(j, anchor=anchor):
            return loss_oracles.distance(anchor, embeddings[j], metric)

        others = [j for j in range(len(LABELS)) if rows[j] != rows[a]]
        negatives = [apart(j) for j in others if LABELS[j] != LABELS[a]]
        negative += negatives
        for p in (apart(j) for j in others if LABELS[j] == LABELS[a]):
            positive.append(p)
            # The hard triplet's loss; the semi-hard one's is never above 0 without it.
            active.append(p - min(negatives) + margin > 0)
    found = statistics(
        embeddings.astype(np.float32), sources=sources, distance_metric=metric, margin=margin
    )
    assert found["active_share"] == pytest.approx(np.mean(active))
    assert 0 < np.mean(active) < 1
    assert found["positive_distance"] == pytest.approx(np.mean(positive), rel=1e-5)
    assert found["negative_distance"] == pytest.approx(np.mean(negative), rel=1e-5)


def test_a_share_of_zero_means_no_triplet_loss():
    far = np.eye(4, dtype=np.float32)[LABELS] * 5.0
    assert statistics(far)["active_share"] == 0.0
    assert float(losses.triplet_semihard_loss(LABELS, far, margin=0.2)) == 0.0
    collapsed = statistics(np.ones((9, 4), np.float32))
    assert collapsed["active_share"] == 1.0
    assert collapsed["positive_distance"] == collapsed["negative_distance"] == 0.0


@pytest.mark.parametrize(("metric", "compiled"), [("L2", False), ("angular", True)])
def test_statistics_are_finite_for_any_batch_and_have_no_gradient(metric, compiled):
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            found = losses.triplet_statistics(
                labels, embeddings, margin=0.2, distance_metric=metric
            )
            total = sum(found.values())
        gradient = tape.gradient(total, embeddings)
        return found, tf.constant(0.0) if gradient is None else gradient

    step = tf.function(step, jit_compile=compiled)
    for labels in ([], [3], [1, 1, 1], [0, 1, 2]):  # no slot, one, no negative, no positive
        embeddings = tf.ones([len(labels), 4]) + tf.eye(len(labels), 4)
        found, gradient = step(tf.constant(labels, tf.int32), embeddings)
        assert all(np.isfinite(value) for value in found.values()) and not np.any(gradient)
        assert float(found["active_share"]) == 0.0
        assert (float(found["positive_distance"]) > 0) == (labels == [1, 1, 1])
        assert (float(found["negative_distance"]) > 0) == (labels == [0, 1, 2])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_statistics_of_half_precision_are_computed_in_float32(dtype):
    low = tf.constant(points(2), dtype)
    assert statistics(low) == statistics(tf.cast(low, tf.float32))


def test_bad_settings_of_the_statistics_are_refused_in_words():
    for settings, sentence in [
        ({"margin": -1}, "margin=-1 was given"),
        ({"distance_metric": "L1"}, "distance_metric='L1' is unknown"),
        ({"labels": [0]}, "1 labels came with 9 embeddings"),
        ({"sources": [0]}, "1 source rows came with 9 labels"),
    ]:
        with pytest.raises(UserError, match=sentence):
            statistics(points(), **settings)


def test_pair_masks_by_hand():
    labels, rows = tf.constant([4, 4, 4, 1], tf.int64), tf.constant([0, 0, 2, 3])
    compared = pair_masks.partners(labels, tf.zeros([4, 2]), rows)
    positive, negative = pair_masks.pair_masks(compared)
    assert positive.numpy().astype(int).tolist() == [
        [0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]  # fmt: skip
    assert negative.numpy().astype(int).tolist() == [
        [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]  # fmt: skip
    assert float(pair_masks.count(negative)) == 6.0
