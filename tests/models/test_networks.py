from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.models import networks
from longtail_tf.settings.choices import BACKBONES, CIFAR_BACKBONES, IMAGE_BACKBONES


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


QUICK_TO_BUILD = ("resnet18v2", "mobilenetv3_small")


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, 3) for name in QUICK_TO_BUILD]
    + [("resnet18v2", 1)]
    + [
        pytest.param(name, 3, marks=pytest.mark.slow)
        for name in IMAGE_BACKBONES
        if name not in QUICK_TO_BUILD
    ],
)
def test_keras_cv_backbones_build_offline_and_embed(name, channels):
    embedder = build(backbone=name, image_size=32, channels=channels)
    features = embedder(np.full((2, 32, 32, channels), 7.0, np.float32))
    assert features.shape == (2, 12) and np.isfinite(features).all()


def test_every_named_backbone_is_covered():
    assert set(BACKBONES) == set(CIFAR_BACKBONES) | set(IMAGE_BACKBONES)


def test_pixels_are_normalised_inside():
    scale = build().get_layer("normalise")
    ends = scale(np.array([[0.0], [255.0]], np.float32)).numpy()
    np.testing.assert_allclose(ends, [[-1], [1]], atol=1e-6)
    scale = build(zero_to_one=True).get_layer("normalise")
    np.testing.assert_allclose(scale(np.array([[0.0], [255.0]])), [[0], [1]], atol=1e-6)


def test_bfloat16_gives_float32_features_and_restores_the_policy():
    embedder = build(precision="bfloat16")
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert networks.backbone_of(embedder).layers[1].compute_dtype == "bfloat16"
    assert embedder(np.zeros((1, 16, 16, 3), np.float32)).dtype == tf.float32


def test_weights_file_starts_the_backbone(tmp_path):
    first = build()
    path = str(tmp_path / "net.weights.h5")
    networks.backbone_of(first).save_weights(path)
    second = build(weights=path)
    for ours, theirs in zip(
        networks.backbone_of(second).get_weights(), networks.backbone_of(first).get_weights()
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_missing_weights_file_is_reported():
    with pytest.raises(UserError, match="--weights=/nowhere.weights.h5: there is no such file"):
        build(weights="/nowhere.weights.h5")


def test_weights_of_another_net_are_reported(tmp_path):
    path = str(tmp_path / "net.weights.h5")
    networks.backbone_of(build(width=8)).save_weights(path)
    with pytest.raises(UserError, match="does not fit this --backbone and --width"):
        build(weights=path)


def test_imagenet_weights_that_do_not_exist_are_reported():
    with pytest.raises(UserError, match="no ImageNet weights for --backbone=resnet18v2"):
        build(backbone="resnet18v2", image_size=32, weights="imagenet")


def test_imagenet_weights_that_cannot_be_fetched_are_reported(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route")

    models = quiet_imports.keras_cv().models
    monkeypatch.setattr(models.Backbone, "from_preset", offline)
    with pytest.raises(UserError, match="could not be downloaded.*go online once"):
        build(backbone="resnet50v2", image_size=32, weights="imagenet")
