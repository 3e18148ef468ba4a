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


def make_model(*, seed=0, neck=True, num_head=HEAD_CLASSES, **settings):
    tf.keras.utils.set_random_seed(seed)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=SIZE, channels=1, embedding_dim=6, width=4
    )
    return TwoStreamModel(embedder, num_head_classes=num_head, neck=neck, **settings)


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


def norms_of(model):
    """Scale, shift, mean and variance of each batch norm inside the embedder."""
    return {
        layer.name: [np.array(each) for each in layer.get_weights()]
        for layer in networks.backbone_of(model.embedder).layers
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    }


@pytest.mark.parametrize("keep_norms", [False, True])
def test_kept_norms_go_on_with_their_statistics_while_scale_and_shift_are_trained(data, keep_norms):
    model = make_model(keep_norms=keep_norms)
    for layer in networks.backbone_of(model.embedder).layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.moving_variance.assign(2 * np.ones(layer.moving_variance.shape))
    compile_model(model)
    before, neck = norms_of(model), model.neck.get_weights()
    images = data["head"][0]
    is_as_in_use = np.allclose(
        model.features(images, training=True), model.features(images), atol=rounding.NETWORK
    )
    assert is_as_in_use == keep_norms
    before = norms_of(model)
    model.train_step(data)
    assert len(before) == 9
    for name, (scale, shift, mean, variance) in norms_of(model).items():
        old = before[name]
        assert (scale != old[0]).any() and (shift != old[1]).any(), name
        kept = np.array_equal(mean, old[2]) and np.array_equal(variance, old[3])
        assert kept == keep_norms, name
    # The neck is new: its statistics always are of the batches.
    assert (model.neck.get_weights()[1] != neck[1]).any()


@pytest.mark.parametrize("schedule", ["alternate", "joint"])
def test_stay_near_pulls_the_embedder_towards_what_it_was_when_compiled(data, schedule):
    """Against the same steps with the pull written out: its gradient is w times the way gone."""
    model, oracle = make_model(), make_model()
    weight, rate = 0.3, 0.1
    settings = dict(schedule=schedule)
    if schedule == "joint":
        settings.update(whole_optimizer=None)
    compile_model(model, stay_near=weight, **settings)
    compile_model(oracle, **settings)
    begun = weights(oracle.embedder)
    # Moved since: at the start itself there is no pull.
    for each in (model, oracle):
        for number, variable in enumerate(each.trainable_variables):
            variable.assign_add(0.05 * np.sin(number + np.arange(np.prod(variable.shape)))
                                .reshape(variable.shape))  # fmt: skip
    streams = [["head", "whole"]] if schedule == "joint" else [["head"], ["whole"]]
    for names in streams:
        before = weights(oracle.embedder)
        for each in (model, oracle):
            each.train_step({name: data[name] for name in names})
        for variable, now, start in zip(oracle.embedder.trainable_variables, before, begun):
            variable.assign_sub(rate * weight * (now - start))
    for ours, theirs in zip(weights(model), weights(oracle)):
        np.testing.assert_allclose(ours, theirs, atol=2 * STEP)
    # Without it the step is another one.
    for variable, now, start in zip(oracle.embedder.trainable_variables, before, begun):
        variable.assign_add(rate * weight * (now - start))
    apart = [np.abs(a - b).max() for a, b in zip(weights(model), weights(oracle))]
    assert max(apart) > 50 * STEP


def test_what_training_stays_near_is_no_part_of_the_losses_that_are_logged(data):
    logs = []
    for weight in (0.0, 10.0):
        model = compile_model(make_model(), stay_near=weight)
        for variable in model.embedder.trainable_variables:
            variable.assign_add(np.full(variable.shape, 0.02))
        model.train_step(data)  # the head update moves what the whole update sees
        logs.append(float(model._means["head_loss"].result()))
    assert logs[0] == pytest.approx(logs[1], abs=rounding.NETWORK)


@pytest.fixture
def joined():
    """A model of the top of an embedder, and the embedder."""
    tf.keras.utils.set_random_seed(0)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=SIZE, channels=1, embedding_dim=6, width=4
    )
    trunk, top = networks.split_embedder(embedder, "stage3")
    model = TwoStreamModel(
        top, num_head_classes=HEAD_CLASSES, input_dtype="float16", whole_embedder=embedder
    )
    return model, trunk, embedder


def test_a_top_takes_the_outputs_of_its_trunk(joined, data):
    model, trunk, embedder = joined
    assert model.whole_embedder() is embedder
    images = data["head"][0]
    outputs = tf.cast(trunk(images), tf.float16)
    np.testing.assert_allclose(
        model.features(outputs),
        embedder(images),
        rtol=0,
        atol=0.02 * np.abs(embedder(images)).max(),
    )
    specification = model.embed_images.input_signature[0]
    assert specification.dtype == tf.float16 and specification.shape == (None, 4, 4, 8)


def test_the_trunk_is_neither_trained_nor_saved_with_the_top(joined, data, tmp_path):
    model, trunk, embedder = joined
    compile_model(model)
    before = trunk.get_weights()
    outputs = {
        name: (tf.cast(trunk(images), tf.float16), labels, rows)
        for name, (images, labels, rows) in data.items()
    }
    model.train_step(outputs)
    for ours, theirs in zip(trunk.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)
    # Three convolutions with their norms, and the projection: nothing of the trunk.
    assert len(model.embedder.get_weights()) == 3 * 5 + 1
    assert "whole_embedder" not in model.get_config()
    model.save_weights(str(tmp_path / "top.weights.h5"))
    alone = networks.split_embedder(
        networks.build_embedder(
            backbone="resnet8", image_size=SIZE, channels=1, embedding_dim=6, width=4
        ),
        "stage3",
    )[1]
    fresh = TwoStreamModel(alone, num_head_classes=HEAD_CLASSES, input_dtype="float16")
    fresh.load_weights(str(tmp_path / "top.weights.h5"))
    for part in ("embedder", "neck", "head"):
        pairs = zip(getattr(fresh, part).get_weights(), getattr(model, part).get_weights())
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)
    saved = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    names = [name for name, _ in tf.train.list_variables(saved)]
    assert names and not any("stem" in name or "stage1" in name for name in names)
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(saved)]
    assert (3, 3, 1, 4) not in shapes  # the stem's kernel


def test_without_a_trunk_the_embedder_is_the_whole():
    model = make_model()
    assert model.whole_embedder() is model.embedder


def test_its_config_builds_it_again(tmp_path):
    model = make_model(keep_norms=True, cosine_head=True, neck=False)
    again = TwoStreamModel.from_config(model.get_config())
    assert again.keep_norms and again.neck is None and again.num_head_classes == HEAD_CLASSES
    assert type(again.head) is type(model.head)
