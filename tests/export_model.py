"""A small network trained for a few seconds on scikit-learn's digits, shared by the export tests.

An untrained network names one class for every image, so nothing could be compared with it.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import importlib.util
import io
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from longtail_tf.exporting import tflite_convert, tflite_files
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.fit import Recognizer

SIZE, CHANNELS, CLASSES, HEAD = 16, 3, 10, 4
NAMES = ["zero", "one", "two, with comma", "drei", "vier", "fünf", "six", " seven", "acht 8", "九"]


@dataclasses.dataclass
class Trained:
    model: Any
    recognizer: Recognizer
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits (float [1797, 8, 8] in 0..16, labels), without importing it."""
    package = pathlib.Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


@functools.cache
def trained() -> Trained:
    grey, target = digits()
    grey = np.kron((grey * 15.9375).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    images = np.repeat(grey[..., None], 3, axis=-1)
    train, test = slice(0, 1200), slice(1200, None)
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    inputs = tf.keras.Input((SIZE, SIZE, CHANNELS))
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for filters, stride in ((16, 1), (32, 2), (32, 2)):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    embedder = tf.keras.Model(inputs, layers.Dense(32)(layers.GlobalAveragePooling2D()(x)))
    model = TwoStreamModel(embedder, num_head_classes=HEAD)
    _train(model, images[train], target[train])
    embeddings = model(tf.constant(images[train]), training=False).numpy()
    labels = target[train]
    means = np.stack([embeddings[labels == c].mean(axis=0) for c in range(CLASSES)])
    prototypes = means / np.linalg.norm(means, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    recognizer = Recognizer(
        prototypes=prototypes.astype(np.float32),
        num_classes=CLASSES,
        num_head=HEAD,
        class_counts=np.bincount(labels, minlength=CLASSES),
        gate_weight=0.05,
        temperatures={"ncm": 0.1, "gated": 0.1},
        linear_kernel=(8 * prototypes.T).astype(np.float32),
        linear_bias=rng.normal(0, 0.1, CLASSES).astype(np.float32),
    )
    return Trained(model, recognizer, images[train], labels, images[test], target[test])


def _train(model: TwoStreamModel, images: np.ndarray, labels: np.ndarray) -> None:
    optimizer = tf.keras.optimizers.Adam(3e-3)
    classifier = tf.Variable(tf.random.stateless_normal([32, CLASSES], [0, 0]) * 0.1)
    variables = model.embedder.trainable_variables + model.neck.trainable_variables
    variables += [classifier, *model.head.trainable_variables]

    @tf.function(autograph=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            vector = model.neck_output(model.features(x, True), True)
            logits = 16 * tf.matmul(tf.math.l2_normalize(vector, axis=-1),
                                    tf.math.l2_normalize(classifier, axis=0))  # fmt: skip
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            head = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.minimum(y, HEAD - 1), model.head(vector)
            )
            loss = tf.reduce_mean(loss) + tf.reduce_mean(tf.where(y < HEAD, head, 0.0))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    rng = np.random.default_rng(0)
    for _ in range(150):
        rows = rng.integers(0, len(images), 64)
        step(tf.constant(images[rows], tf.float32), tf.constant(labels[rows], tf.int32))


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, kind)
    return file.getvalue()


def test_files(count: int) -> list[bytes]:
    return [encoded(image) for image in trained().test_images[:count]]


test_files.__test__ = False  # type: ignore[attr-defined]


@functools.cache
def tflite_paths() -> dict[tuple[str, str], pathlib.Path]:
    """The eight device files of the trained model, in a folder that goes with the process."""
    known = trained()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="longtail_tf_test_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tflite_files.write_tflite_files(
        folder=folder,
        model_name="digits",
        model=known.model,
        recognizer=known.recognizer,
        class_names=NAMES,
        image_size=SIZE,
        channels=CHANNELS,
        variants=tflite_convert.VARIANTS,
        calibration=known.train_images[:200],
        unknown_threshold=None,
    )
