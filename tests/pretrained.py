"""Tiny pretrained backbones, for tests of what is trained above them."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.models import networks

# Of the resnet8 whose weights `write_resnet8` leaves.
RESNET8 = dict(backbone="resnet8", width=4)
FEATURES = 16


def write_resnet8(folder: pathlib.Path, *, channels: int = 1, image_size: int = 8) -> str:
    """Writes the weights of a resnet8 whose batch norms have statistics and scales of their own.

    Returns the path for `--weights`.
    """
    tf.keras.utils.set_random_seed(7)
    embedder = networks.build_embedder(
        image_size=image_size, channels=channels, embedding_dim=0, **RESNET8
    )
    draw = np.random.default_rng(0)
    for layer in keras_version.all_layers(embedder):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.7, 1.3, each.shape) for each in layer.get_weights()])
    path = folder / "resnet8.weights.h5"
    networks.backbone_of(embedder).save_weights(str(path))
    return str(path)


def write_pixel_network(folder: pathlib.Path) -> str:
    """Writes a Keras model of the user's own that takes grey images of 8 px.

    Its 16 features are the pixels in the middle, (value - 128) / 32: a test draws features as it
    likes with `write_features`. Returns the path for `--backbone`.
    """
    images = tf.keras.Input((8, 8, 1))
    middle = tf.keras.layers.Cropping2D(2)(tf.keras.layers.Rescaling(1 / 32, -4.0)(images))
    path = folder / "pixels.keras"
    tf.keras.Model(images, tf.keras.layers.Flatten(name="flat")(middle)).save(str(path))
    return str(path)


def write_features(
    path: pathlib.Path, features: np.ndarray, labels: np.ndarray, *, num_test: int
) -> str:
    """Writes images of which the pixel network makes these features, to 1 / 32; returns the spec.

    Args:
      path: of the .npz file.
      features: float [N, 16], -4 to 4; the last `num_test` are test images.
      labels: int [N].
      num_test: test images.
    """
    images = np.full((len(features), 8, 8, 1), 128.0)
    images[:, 2:6, 2:6, 0] += 32 * features.reshape(-1, 4, 4)
    split = np.zeros(len(labels), np.uint8)
    split[len(labels) - num_test :] = 2
    np.savez(
        path,
        images=np.clip(images.round(), 0, 255).astype(np.uint8),
        labels=labels,
        split=split,
        split_names=np.array(["train", "val", "test"]),
    )
    return f"npz:{path}"
