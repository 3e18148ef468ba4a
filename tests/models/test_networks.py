from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.models import networks
from longtail_tf.settings.backbones import (
    BACKBONES,
    CIFAR_BACKBONES,
    TABLE,
    cut_names,
)


def build(**changes):
    settings = dict(backbone="resnet8", image_size=16, channels=3, embedding_dim=12, width=4)
    return networks.build_embedder(**{**settings, **changes})


def test_resnet20_has_the_published_size():
    """He 2016, table 6: 0.27 M parameters at 32x32x3, without its 10-class classifier."""
    embedder = build(backbone="resnet20", image_size=32, width=16)
    assert 0.265e6 < networks.backbone_of(embedder).count_params() < 0.28e6


@pytest.mark.parametrize("name", CIFAR_BACKBONES)
def test_cifar_nets_keep_resolution_until_the_second_stage(name):
    net = networks.backbone_of(build(backbone=name))
    assert net.output_shape == (None, 4, 4, 16)
    convolutions = [layer for layer in net.layers if layer.name.endswith(("stem_conv", "_1_conv"))]
    assert len(convolutions) == 1 + 3 * (int(name[6:]) - 2) // 6


# One of each family runs every time; the rest take from 5 to 30 s each.
QUICK_TO_BUILD = ("resnet20", "mobilenetv3_small", "keras_mobilenetv2", "efficientnet_lite0")
EVERY_BACKBONE = [
    name if name in QUICK_TO_BUILD else pytest.param(name, marks=pytest.mark.slow)
    for name in BACKBONES
]


def shaken(embedder, seed=0):
    """Random statistics, so that a batch norm is no identity, and features of a usual size."""
    draw = np.random.RandomState(seed)
    for layer in keras_version.all_layers(embedder):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return embedder


def images(size=32, channels=3):
    return np.random.RandomState(0).randint(0, 256, (2, size, size, channels)).astype(np.uint8)


@pytest.mark.parametrize("name", EVERY_BACKBONE)
def test_every_backbone_of_the_table_embeds_and_can_be_cut(name):
    """Offline; what it gives is as the table says; top(trunk(x)) equals the whole."""
    embedder = shaken(build(backbone=name, image_size=32, width=None))
    expected = embedder(images(), training=False).numpy()
    assert expected.shape == (2, 12) and np.isfinite(expected).all() and expected.std() > 0
    assert embedder.get_layer("pool").output.shape[-1] == (TABLE[name].features or 64)
    stages = [cut for cut in cut_names(name) if not cut.startswith("block")]
    assert stages[-1] == "head" and TABLE[name].usual_cut in stages
    if len(stages) > 4:  # seconds a cut: the ends, the usual one, and that before the head
        kept = {stages[0], TABLE[name].usual_cut, stages[-2], stages[-1]}
        stages = [cut for cut in stages if cut in kept]
    weights = []
    for cut in stages:
        trunk, top = networks.split_embedder(embedder, cut)
        np.testing.assert_array_equal(
            top(trunk(images(), training=False), training=False).numpy(), expected
        )
        assert not trunk.trainable_weights
        weights.append(trunk.count_params())
        assert trunk.count_params() + top.count_params() == embedder.count_params()
    assert weights == sorted(set(weights))  # every stage is a further one
    assert [tuple(w.shape) for w in top.weights] == [(TABLE[name].features or 64, 12)]


def test_nothing_draws_at_random_in_training():
    embedder = build(backbone="keras_efficientnetv2b0", image_size=32, width=None)
    rates = [layer.rate for layer in keras_version.all_layers(embedder) if hasattr(layer, "rate")]
    assert rates and not any(rates)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv3_small"])
def test_grey_images_embed(name):
    embedder = build(backbone=name, image_size=32, channels=1, width=None)
    assert embedder(images(channels=1)).shape == (2, 12)
    if name != "resnet8":
        seen = embedder.get_layer("normalise").output
        pixels = tf.keras.Model(embedder.inputs[0], seen)(images(channels=1)).numpy()
        np.testing.assert_array_equal(pixels[..., :1] + np.zeros(3, np.float32), pixels)


def test_a_backbone_alone_gives_all_its_features():
    embedder = build(embedding_dim=0)
    assert embedder.layers[-1].name == "pool" and embedder.output_shape == (None, 16)
    expected = embedder(images(16)).numpy()
    for cut in ("stage3", "head"):
        trunk, top = networks.split_embedder(embedder, cut)
        np.testing.assert_array_equal(top(trunk(images(16))).numpy(), expected)


def test_a_top_trains_and_the_trunk_stands_still():
    embedder = build()
    trunk, top = networks.split_embedder(embedder, "stage3")
    still = [weight.copy() for weight in trunk.get_weights()]
    moving = [weight.copy() for weight in top.get_weights()]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(top(trunk(images(16), training=True), training=True) ** 2)
    variables = keras_version.tf_variables(top.trainable_variables)
    for variable, slope in zip(variables, tape.gradient(loss, variables)):
        variable.assign_sub(0.1 * slope)
    for before, after in zip(still, trunk.get_weights()):
        np.testing.assert_array_equal(before, after)
    changed = sum(not np.array_equal(old, new) for old, new in zip(moving, top.get_weights()))
    assert changed > 10
    np.testing.assert_array_equal(
        top(trunk(images(16))).numpy(), embedder(images(16), training=False).numpy()
    )


def test_bfloat16_can_be_cut_too():
    embedder = build(precision="bfloat16")
    expected = embedder(images(16)).numpy()
    trunk, top = networks.split_embedder(embedder, "stage2")
    maps = trunk(images(16))
    assert maps.dtype == tf.bfloat16
    np.testing.assert_array_equal(top(maps).numpy(), expected)


def test_a_cut_that_does_not_exist_is_told():
    with pytest.raises(UserError, match="resnet8 has no part 'stage9'.*: training can begin at"):
        networks.split_embedder(build(), "stage9")


# Float64, as each convention is published; pixel 0 and 255 of red, green and blue.
RANGES = {
    "-1..1": lambda x: x / 127.5 - 1,
    "0..1": lambda x: x / 255,
    "0..255": lambda x: x,
    "imagenet": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "caffe": lambda x: x[..., ::-1] - [103.939, 116.779, 123.68],
}


@pytest.mark.parametrize("pixel_range", RANGES)
def test_pixels_are_normalised_inside(pixel_range):
    embedder = build(pixel_range=pixel_range)
    seen = tf.keras.Model(embedder.inputs[0], embedder.get_layer("normalise").output)
    np.testing.assert_allclose(
        seen(images(16)).numpy(), RANGES[pixel_range](images(16).astype(np.float64)), atol=2e-5
    )


@pytest.mark.parametrize(
    ("name", "module", "class_name"),
    [
        ("keras_mobilenetv2", "mobilenet_v2", "MobileNetV2"),
        pytest.param("keras_resnet50", "resnet", "ResNet50", marks=pytest.mark.slow),
        pytest.param("keras_resnet50v2", "resnet_v2", "ResNet50V2", marks=pytest.mark.slow),
        pytest.param("keras_densenet121", "densenet", "DenseNet121", marks=pytest.mark.slow),
        pytest.param("keras_efficientnetv2b0", "", "EfficientNetV2B0", marks=pytest.mark.slow),
        pytest.param("keras_convnexttiny", "", "ConvNeXtTiny", marks=pytest.mark.slow),
        pytest.param("keras_mobilenetv3small", "", "MobileNetV3Small", marks=pytest.mark.slow),
    ],
)
def test_keras_networks_see_the_pixels_keras_shows_them(name, module, class_name):
    """Keras' own preprocess_input, or the normalisation it builds into the network."""
    embedder = shaken(build(backbone=name, image_size=32, embedding_dim=0))
    pixels = images().astype(np.float32)
    theirs = getattr(tf.keras.applications, class_name)(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    theirs.set_weights(networks.backbone_of(embedder).get_weights())
    if module:
        pixels = getattr(tf.keras.applications, module).preprocess_input(pixels.copy())
    np.testing.assert_allclose(
        embedder(images()).numpy(), theirs(pixels).numpy(), rtol=1e-3, atol=1e-4
    )


def test_bfloat16_gives_float32_features_and_restores_the_policy():
    embedder = build(precision="bfloat16")
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert networks.backbone_of(embedder).layers[1].compute_dtype == "bfloat16"
    assert embedder(np.zeros((1, 16, 16, 3), np.float32)).dtype == tf.float32
