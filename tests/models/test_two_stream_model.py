from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.errors import UserError
from longtail_tf.models import networks
from longtail_tf.models.two_stream_model import HEAD_METRICS, WHOLE_METRICS, TwoStreamModel
from tests import rounding

SIZE, HEAD_CLASSES = 8, 3


def make_model(*, seed=0, neck=True, num_head=HEAD_CLASSES, cosine_head=False):
    tf.keras.utils.set_random_seed(seed)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=SIZE, channels=1, embedding_dim=6, width=4
    )
    return TwoStreamModel(embedder, num_head_classes=num_head, neck=neck, cosine_head=cosine_head)


def sgd(rate=0.1, **settings):
    return tf.keras.optimizers.SGD(rate, **settings)


def classification(labels, logits):
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def metric(labels, features, rows):
    return losses.triplet_semihard_loss(
        labels, features, margin=0.2, distance_metric="L2", source_rows=rows
    )


def compile_model(model, **changes):
    settings = dict(
        head_optimizer=sgd(),
        whole_optimizer=sgd(),
        classification_loss=classification,
        metric_loss=metric,
    )
    model.compile(**{**settings, **changes})
    return model


def batch(rng, labels):
    images = rng.uniform(0, 255, (len(labels), SIZE, SIZE, 1)).astype(np.float32)
    rows = rng.integers(0, 10**6, len(labels))
    return tf.constant(images), tf.constant(labels, tf.int32), tf.constant(rows)


@pytest.fixture
def data(rng):
    return {"head": batch(rng, [0, 1, 2, 0, 1]), "whole": batch(rng, [0, 0, 4, 4, 7, 7])}


def weights(model):
    return [v.numpy() for v in model.trainable_variables]


def test_embedding_is_unit_length_and_float32(rng, data):
    model = make_model()
    for images in (data["head"][0], tf.cast(data["head"][0], tf.uint8)):
        embedding = model(images)
        assert embedding.dtype == tf.float32 and embedding.shape == (5, 6)
        np.testing.assert_allclose(tf.norm(embedding, axis=1), np.ones(5), atol=1e-6)


def test_embed_with_logits_agrees_with_its_parts(data):
    model = make_model()
    embedding, logits = model.embed_with_logits(data["head"][0])
    np.testing.assert_allclose(embedding, model(data["head"][0]), atol=rounding.NETWORK)
    neck_output = model.neck_output(model.features(data["head"][0]))
    expected = neck_output @ model.head.kernel
    size = max(1, np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, atol=rounding.NETWORK * size)
    assert make_model(num_head=0).embed_with_logits(data["head"][0])[1] is None


def test_the_neck_has_no_shift():
    assert [v.shape.as_list() for v in make_model().neck.trainable_variables] == [[6]]


def test_cosine_head_logits_are_scaled_cosines(data):
    model = make_model(cosine_head=True)
    embedding, logits = model.embed_with_logits(data["head"][0])
    kernel = model.head.kernel.numpy()
    expected = 16 * embedding.numpy() @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(logits, expected, atol=rounding.sums_apart(3 * 6, 16))


# A step on sums over images and pixels, in any order; another step differs by 1e-3 and more.
STEP = 2e-5


def manual_update(model, images, loss_of, variables, rate=0.1):
    """One plain SGD step, written out."""
    with tf.GradientTape() as tape:
        features = model.features(images, training=True)
        loss = loss_of(features, model.neck_output(features, training=True))
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        variable.assign_sub(rate * gradient)


def unit(features):
    return features / tf.norm(features, axis=1, keepdims=True)


def test_alternate_is_a_head_update_then_a_whole_update(data):
    model, oracle = compile_model(make_model()), make_model()
    model.train_step(data)
    (head_images, head_labels, _), (whole_images, whole_labels, rows) = data.values()
    manual_update(
        oracle, head_images, lambda f, n: classification(head_labels, oracle.head(n)),
        oracle.trainable_variables,
    )  # fmt: skip
    manual_update(
        oracle, whole_images, lambda f, n: metric(whole_labels, unit(f), rows),
        oracle.embedder.trainable_variables,
    )  # fmt: skip
    for ours, theirs in zip(weights(model), weights(oracle)):
        np.testing.assert_allclose(ours, theirs, atol=STEP)
    assert int(model.step) == 1


def assert_one_joint_update(model, oracle, head_images, whole_images, loss_of):
    """`model` has made the step that `oracle` makes on `loss_of` over both batches joined."""
    images = tf.concat([head_images, whole_images], 0)
    manual_update(oracle, images, loss_of, oracle.trainable_variables)
    for ours, theirs in zip(weights(model), weights(oracle)):
        np.testing.assert_allclose(ours, theirs, atol=STEP)


def test_joint_is_one_update_on_the_summed_losses_of_the_joined_batch(data):
    model = compile_model(make_model(), schedule="joint", whole_optimizer=None, metric_weight=0.5)
    oracle = make_model()
    model.train_step(data)
    (head_images, head_labels, _), (whole_images, whole_labels, rows) = data.values()

    def loss_of(features, neck_output):
        head = classification(head_labels, oracle.head(neck_output[:5]))
        return head + 0.5 * metric(whole_labels, unit(features[5:]), rows)

    assert_one_joint_update(model, oracle, head_images, whole_images, loss_of)


def test_classify_whole_classifies_head_images_of_the_whole_batch_in_the_same_pass(data):
    model = make_model()
    compile_model(model, schedule="joint", whole_optimizer=None, classify_whole=True)
    oracle = make_model()
    model.train_step(data)
    (head_images, head_labels, _), (whole_images, whole_labels, rows) = data.values()

    def loss_of(features, neck_output):
        # Of the whole batch, slots 0 and 1 alone are of a head class.
        labels = tf.concat([head_labels, whole_labels[:2]], 0)
        head = classification(labels, oracle.head(neck_output[:7]))
        return head + metric(whole_labels, unit(features[5:]), rows)

    assert_one_joint_update(model, oracle, head_images, whole_images, loss_of)


def test_classify_whole_without_a_head_image_in_the_whole_batch_is_plain_joint(rng):
    data = {"head": batch(rng, [0, 1, 2, 0]), "whole": batch(rng, [4, 4, 7, 7])}
    models = []
    for shared in (False, True):
        model = make_model()
        compile_model(model, schedule="joint", whole_optimizer=None, classify_whole=shared)
        model.train_step(data)
        models.append(weights(model))
    for ours, theirs in zip(*models):
        np.testing.assert_allclose(ours, theirs, atol=STEP)


def test_compare_head_takes_the_metric_loss_over_both_batches_in_the_same_pass(data):
    model = make_model()
    compile_model(model, schedule="joint", whole_optimizer=None, compare_head=True)
    oracle = make_model()
    model.train_step(data)
    (head_images, head_labels, head_rows), (whole_images, whole_labels, rows) = data.values()

    def loss_of(features, neck_output):
        labels = tf.concat([head_labels, whole_labels], 0)
        compared = metric(labels, unit(features), tf.concat([head_rows, rows], 0))
        return classification(head_labels, oracle.head(neck_output[:5])) + compared

    assert_one_joint_update(model, oracle, head_images, whole_images, loss_of)


@pytest.mark.parametrize("name", ["classify_whole", "compare_head"])
def test_one_forward_pass_for_both_is_refused_in_an_alternating_schedule(name):
    with pytest.raises(UserError, match=f"{name} needs one update.*schedule='joint'"):
        compile_model(make_model(), **{name: True})


def test_whole_update_neither_moves_nor_decays_nor_speeds_up_the_head(data):
    """Not even with momentum and weight decay, after head updates have given it momentum."""
    model = compile_model(
        make_model(),
        head_optimizer=sgd(momentum=0.9, weight_decay=0.1),
        whole_optimizer=sgd(momentum=0.9, weight_decay=0.1),
    )
    model.train_step({"head": data["head"]})
    kernel = model.head.kernel.numpy()
    slots = [v.numpy() for v in model.head_optimizer.variables]
    embedder = weights(model.embedder)
    for _ in range(3):
        model.train_step({"whole": data["whole"]})
    np.testing.assert_array_equal(model.head.kernel.numpy(), kernel)
    for before, now in zip(slots, model.head_optimizer.variables):
        np.testing.assert_array_equal(before, now.numpy())
    assert any((before != now).any() for before, now in zip(embedder, weights(model.embedder)))


def test_either_stream_trains_alone(data):
    head = compile_model(make_model(), metric_loss=None, whole_optimizer=None)
    assert set(head.train_step({"head": data["head"]})) == set(HEAD_METRICS)
    whole = compile_model(make_model(num_head=0), classification_loss=None, head_optimizer=None)
    assert set(whole.train_step({"whole": data["whole"]})) == set(WHOLE_METRICS)


def test_metrics_are_means_of_what_the_losses_say(data):
    model = compile_model(make_model(), head_optimizer=sgd(0.0), whole_optimizer=sgd(0.0))
    for _ in range(2):
        logs = model.train_step(data)
    features = unit(model.features(data["whole"][0], training=True))
    expected = metric(data["whole"][1], features, data["whole"][2])
    np.testing.assert_allclose(logs["whole_loss"], expected, atol=rounding.NETWORK)
    deviation = features - tf.reduce_mean(features, 0)
    spread = np.sqrt(np.mean(np.sum(np.square(deviation), axis=1)))
    np.testing.assert_allclose(logs["spread"], spread, atol=rounding.NETWORK)
    assert 0 <= float(logs["head_accuracy"]) <= 1


def test_learning_separates_two_shades():
    """Dark, grey and light images: three steps of both streams must lower both losses."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 4)
    shades = np.array([20, 120, 220])[labels][:, None, None, None]
    images = (shades + rng.normal(0, 8, (12, SIZE, SIZE, 1))).astype(np.float32)
    whole = (tf.constant(images), tf.constant(labels, tf.int32), tf.range(12, dtype=tf.int64))
    model = compile_model(make_model(), head_optimizer=sgd(0.05), whole_optimizer=sgd(0.05))
    step = tf.function(model.train_step)
    for _ in range(30):
        logs = step({"head": whole, "whole": whole})
        if _ == 0:
            first = float(logs["head_loss"])
        model.reset_metrics()
    assert float(logs["head_loss"]) < 0.3 * first
    assert float(logs["head_accuracy"]) == 1.0


def test_without_a_neck_the_embedding_is_the_unit_feature(data):
    model = make_model(neck=False)
    np.testing.assert_allclose(
        model(data["head"][0]), unit(model.features(data["head"][0])), atol=rounding.NETWORK
    )
    compile_model(model).train_step(data)


def test_an_unknown_schedule_is_reported():
    with pytest.raises(UserError, match="schedule='sum': expected 'alternate' or 'joint'"):
        compile_model(make_model(), schedule="sum")
