"""Built-in long-tailed cuts of well-known data sets: digits, Fashion-MNIST, CIFAR-10 and -100."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.array_store import ArrayStore, checked_images
from longtail_tf.datasets.index import TEST, TRAIN, UNUSED, Source, array_digest
from longtail_tf.datasets.sources import fashion_mnist_files
from longtail_tf.datasets.sources.fashion_mnist_files import keras_cache
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
_FASHION_NAMES = tuple(
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
)
# The names that the archives of Krizhevsky 2009 carry, in the order of their labels.
CIFAR_NAMES: Mapping[str, tuple[str, ...]] = {
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    "cifar100": tuple("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
    kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
    tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm
    """.split()),
}  # fmt: skip


def read(name: str, options: Mapping[str, Any]) -> Source:
    """Reads a built-in set, balanced; the common option imbalance_factor cuts it afterwards.

    CIFAR is read by Keras, from its cache or its download. Fashion-MNIST's local copies come
    first: the folder option, then the places where packages put it, then Keras' cache.
    """
    if name == "digits_lt":
        return _digits()
    if name == "fashion_mnist_lt":
        arrays, class_names = _fashion_mnist(options["folder"]), _FASHION_NAMES
    else:
        cifar = name[: -len("_lt")]
        arrays, class_names = _cifar(cifar, options["folder"]), CIFAR_NAMES[cifar]
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
    from sklearn.datasets import load_digits

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


def _cifar(name: str, folder: str) -> tuple[np.ndarray, ...]:
    archive = (
        f"Keras reads the archive {name.replace('cifar', 'cifar-')}-python.tar.gz from "
        f"{keras_archive(name)}; without a network, put it there under that name"
    )
    if folder:
        raise UserError(f"{name}_lt has no option folder, but folder={folder} came: {archive}")
    return _keras_download(name, archive)


def keras_archive(name: str) -> str:
    """The file in which Keras keeps the downloaded archive of `cifar10` or `cifar100`."""
    from longtail_tf.compat.keras_version import KERAS_3

    stem = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    if KERAS_3:
        return os.path.join(keras_cache(), f"{stem}-target_archive")
    # Keras 2.15 ignores KERAS_HOME here.
    return os.path.join(os.path.expanduser("~"), ".keras", "datasets", f"{stem}.tar.gz")


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
