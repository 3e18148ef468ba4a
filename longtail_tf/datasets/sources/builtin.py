"""Built-in long-tailed cuts of well-known data sets: digits, Fashion-MNIST, CIFAR-10 and -100."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.array_store import ArrayStore, checked_images
from longtail_tf.datasets.index import TEST, TRAIN, UNUSED, Source, array_digest
from longtail_tf.datasets.sources import cifar_files, fashion_mnist_files
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.errors import UserError

NAMES = ("cifar100_lt", "cifar10_lt", "digits_lt", "fashion_mnist_lt")
OPTIONS: Mapping[str, Option] = {"folder": Option("")}
# Digits: 120 training images in the largest class, so that a factor of 40 leaves 3 in the
# smallest, one class many-shot, four medium and five few-shot.
DEFAULT_IMBALANCE_FACTOR = {
    "digits_lt": 40.0,
    "fashion_mnist_lt": 100.0,
    "cifar10_lt": 100.0,
    "cifar100_lt": 100.0,
}
_DIGITS_TRAIN_PER_CLASS, _DIGITS_TEST_PER_CLASS = 120, 50
_FASHION_NAMES: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read(name: str, options: Mapping[str, Any]) -> Source:
    """Reads a built-in set, balanced; the common option imbalance_factor cuts it afterwards.

    A local copy comes first: the folder option, then the places where packages put it, then
    Keras' cache. Last comes Keras' own download.
    """
    if name == "digits_lt":
        return _digits()
    if name == "fashion_mnist_lt":
        arrays, class_names = _fashion_mnist(options["folder"]), _FASHION_NAMES
    else:
        arrays, class_names = _cifar(name[: -len("_lt")], options["folder"])
    train_images, train_labels, test_images, test_labels = arrays
    images = np.concatenate([train_images, test_images])
    labels = np.concatenate([train_labels, test_labels]).astype(np.int32)
    split = np.full(len(labels), TEST, np.uint8)
    split[: len(train_labels)] = TRAIN
    return _source(name, images, labels, split, class_names, flip_is_valid=True)


def _source(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    split: np.ndarray,
    class_names: tuple[str, ...],
    *,
    flip_is_valid: bool,
) -> Source:
    images = checked_images(images, where=name)
    return Source(
        name=name,
        class_names=StringTable.from_strings(class_names),
        labels=labels.reshape(-1),
        split=split,
        store=ArrayStore(images, name),
        content=array_digest(images),
        image_shape=(int(images.shape[1]), int(images.shape[2]), int(images.shape[3])),
        channels=int(images.shape[3]),
        flip_is_valid=flip_is_valid,
    )


def _digits() -> Source:
    """Handwritten digits, 8x8 grey: 50 test images a class, the same ones for every seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"digits_lt needs scikit-learn, which carries the images, but it cannot be imported "
            f'({error}); install it with pip install "longtail_tf[demo]"'
        ) from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    split = np.full(len(labels), UNUSED, np.uint8)
    shuffled = np.random.RandomState(0).permutation(len(labels))
    for digit in range(10):
        rows = shuffled[labels[shuffled] == digit]
        split[rows[:_DIGITS_TEST_PER_CLASS]] = TEST
        split[rows[_DIGITS_TEST_PER_CLASS:][:_DIGITS_TRAIN_PER_CLASS]] = TRAIN
    names = tuple(str(digit) for digit in range(10))
    return _source("digits_lt", images, labels, split, names, flip_is_valid=False)


def _fashion_mnist(folder: str) -> tuple[np.ndarray, ...]:
    local = fashion_mnist_files.find(folder)
    if local:
        return fashion_mnist_files.read_fashion_mnist(local)
    if folder:
        raise UserError(
            f"the folder {folder} holds no Fashion-MNIST files; it needs "
            f"{fashion_mnist_files.FILE_NAMES[0]} and the three beside it, with or without .gz"
        )
    return _keras_download(
        "fashion_mnist",
        "install the Debian package dataset-fashion-mnist or pass ?folder=DIR with its four files",
    )


def _cifar(name: str, folder: str) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    local = cifar_files.find(name, folder)
    if local:
        return cifar_files.read_cifar(name, local), cifar_files.read_class_names(name, local)
    if folder:
        raise UserError(
            f"the folder {folder} holds no {name} files; it needs {cifar_files.expected(name)}"
        )
    arrays = _keras_download(name, "pass ?folder=DIR with the unpacked python or binary version")
    return arrays, cifar_files.default_class_names(name)


def _keras_download(name: str, remedy: str) -> tuple[np.ndarray, ...]:
    import tensorflow as tf

    try:
        train, test = getattr(tf.keras.datasets, name).load_data()
    except Exception as error:
        raise UserError(
            f"there is no local copy of {name} and Keras could not download it "
            f"({' '.join(str(error).split())[:200]}); {remedy}"
        ) from error
    return train[0], train[1].reshape(-1), test[0], test[1].reshape(-1)
