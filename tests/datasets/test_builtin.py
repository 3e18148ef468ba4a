"""Built-in sets: Fashion-MNIST from local copies, CIFAR by Keras, digits by scikit-learn."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from longtail_tf.datasets import load_index
from longtail_tf.datasets.long_tail import long_tailed_counts
from longtail_tf.datasets.sources import builtin, fashion_mnist_files
from longtail_tf.errors import UserError


@pytest.fixture(autouse=True)
def no_copy_elsewhere(monkeypatch, tmp_path):
    """Hides copies on this machine, so that only the test's own files count."""
    monkeypatch.setattr(fashion_mnist_files, "_PACKAGE_FOLDER", "no-such-folder")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_digits_lt():
    index = load_index("digits_lt", val_per_class=0)
    assert index.image_shape == (8, 8, 1) and index.channels == 1 and not index.flip_is_valid
    assert list(index.class_counts) == long_tailed_counts(10, 120, 40)
    assert list(np.bincount(index.test.labels)) == [50] * 10
    # One class above 100 training images, five under 20, with the validation images taken too.
    counts = load_index("digits_lt").class_counts
    assert sum(counts > 100) == 1 and sum(counts < 20) == 5
    images = index.test.read(np.arange(500))[..., 0]
    assert images.max() == 255 and images.min() == 0
    # Every test image is one of scikit-learn's with the right label.
    digits = load_digits()
    known = {(image * 255 / 16).round().astype(np.uint8).tobytes(): label
             for image, label in zip(digits.images, digits.target)}  # fmt: skip
    names = [int(index.class_names[i]) for i in index.test.labels]
    assert [known[image.tobytes()] for image in images] == names


def test_digits_test_set_is_the_same_for_every_seed():
    first, other = load_index("digits_lt?seed=0"), load_index("digits_lt?seed=1")
    whole = load_index("digits_lt?imbalance_factor=1", val_per_class=0)
    rows = [sorted(index.test.store_rows) for index in (first, other, whole)]
    assert rows[0] == rows[1] == rows[2]
    assert sorted(first.train.store_rows) != sorted(other.train.store_rows)
    assert not set(whole.train.store_rows) & set(rows[0])
    assert list(whole.class_counts) == [120] * 10


def idx_bytes(array):
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder, zipped=True, per_class=(20, 5)):
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in ((per_class[0], "train"), (per_class[1], "t10k")):
        labels = np.tile(np.arange(10, dtype=np.uint8), part)
        images = np.random.default_rng(part).integers(0, 256, (len(labels), 28, 28), np.uint8)
        images[:, 0, 0] = labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = folder / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_from_a_folder(tmp_path, zipped):
    write_fashion(tmp_path / "f", zipped)
    index = load_index(f"fashion_mnist_lt?folder={tmp_path / 'f'}&imbalance_factor=10",
                       val_per_class=0)  # fmt: skip
    assert index.image_shape == (28, 28, 1) and index.flip_is_valid and len(index.test) == 50
    assert sorted(index.class_counts) == sorted(long_tailed_counts(10, 20, 10))
    assert index.class_names[0] == "T-shirt/top" and index.class_names[9] == "Ankle boot"
    pixels = index.train.read(np.arange(len(index.train)))[:, 0, 0, 0]
    np.testing.assert_array_equal(pixels, index.train.labels)


def test_fashion_from_the_package_or_keras_cache(tmp_path, monkeypatch):
    write_fashion(tmp_path / "keras" / "datasets" / "fashion-mnist")
    assert len(load_index("fashion_mnist_lt?imbalance_factor=1").test) == 50
    monkeypatch.setattr(fashion_mnist_files, "_PACKAGE_FOLDER", str(tmp_path / "package"))
    write_fashion(tmp_path / "package", per_class=(20, 6))
    assert len(load_index("fashion_mnist_lt?imbalance_factor=1").test) == 60


@pytest.mark.parametrize(
    "name, data, match",
    [
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((3, 2, 2), np.uint8))[:-1], "no whole IDX"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "no whole IDX"),
        ("train-images-idx3-ubyte", b"", "no whole IDX"),
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(7, np.uint8)), "do not fit together"),
        ("t10k-labels-idx1-ubyte", idx_bytes(np.full(50, 10, np.uint8)), "up to 10"),
    ],
)
def test_damaged_idx_files(tmp_path, name, data, match):
    write_fashion(tmp_path, zipped=False)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=match):
        load_index(f"fashion_mnist_lt?folder={tmp_path}")


def test_cut_gzip_file(tmp_path):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte.gz cannot be read"):
        load_index(f"fashion_mnist_lt?folder={tmp_path}")


def test_a_folder_without_the_files(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no .* it needs train-images"):
        load_index(f"fashion_mnist_lt?folder={tmp_path}")


def keras_gives(monkeypatch, name, load_data):
    """Stands for Keras' downloader, so that the test needs no network."""
    monkeypatch.setattr(getattr(tf.keras.datasets, name), "load_data", load_data)


def test_keras_download_comes_last(monkeypatch):
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    arrays = np.zeros((30, 28, 28), np.uint8), labels
    keras_gives(monkeypatch, "fashion_mnist", lambda: (arrays, arrays))
    assert len(load_index("fashion_mnist_lt?imbalance_factor=1").test) == 30


def no_network():
    raise OSError("no network")


def test_no_copy_and_no_network(monkeypatch):
    keras_gives(monkeypatch, "fashion_mnist", no_network)
    with pytest.raises(UserError, match="no network.; install the Debian package dataset-fashion"):
        load_index("fashion_mnist_lt")


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_cifar_by_keras(monkeypatch, name, classes):
    labels = np.arange(3 * classes, dtype=np.uint8)[:, None] % classes
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    images[:, 3, 5, 2] = labels[:, 0]
    keras_gives(monkeypatch, name, lambda: ((images, labels), (images[:classes], labels[:classes])))
    index = load_index(f"{name}_lt?imbalance_factor=1", val_per_class=0)
    assert index.image_shape == (32, 32, 3) and index.flip_is_valid
    assert len(index.train) == 3 * classes and len(index.test) == classes
    pixels = index.train.read(np.arange(len(index.train)))[:, 3, 5, 2]
    np.testing.assert_array_equal(pixels, index.train.labels)
    assert list(index.class_names) == list(builtin.CIFAR_NAMES[name])
    assert index.class_names[1] == {10: "automobile", 100: "aquarium_fish"}[classes]


def test_the_names_of_cifar100_are_those_of_the_archive(real_data):
    with np.load(real_data / "cifar100_lt_if100_32.npz") as arrays:
        assert list(builtin.CIFAR_NAMES["cifar100"]) == arrays["class_names"].tolist()


@pytest.mark.parametrize(
    "name, archive", [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")]
)
def test_cifar_without_a_network(monkeypatch, tmp_path, name, archive):
    keras_gives(monkeypatch, name, no_network)
    sentence = f"Keras reads the archive {archive}.tar.gz from {tmp_path}.*, put it there under"
    with pytest.raises(UserError, match=f"no local copy of {name} and .*no network.; {sentence}"):
        load_index(f"{name}_lt")
    with pytest.raises(UserError, match=f"{name}_lt has no option folder.*=DIR came: {sentence}"):
        load_index(f"{name}_lt?folder=DIR")


LOAD_BOTH = """
import pathlib
from longtail_tf.datasets import load_index
from longtail_tf.datasets.sources.builtin import keras_archive
from longtail_tf.errors import UserError
for name in ("cifar10", "cifar100"):
    path = pathlib.Path(keras_archive(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"cut")
    try:
        load_index(f"{name}_lt")
    except UserError as error:
        print(error)
"""


def test_the_archive_is_where_keras_looks_for_it(tmp_path):
    # Keras checks the hash of a file that is there; then it downloads, from a proxy without a port.
    # In a process of its own: Keras 3 reads KERAS_HOME when it is imported.
    environment = {**os.environ, "HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:1"}
    environment["KERAS_HOME"] = str(tmp_path / "keras")
    said = subprocess.run(
        [sys.executable, "-c", LOAD_BOTH], env=environment, capture_output=True, text=True
    ).stdout
    assert said.count("A local file was found, but it seems to be incomplete") == 2, said
    assert said.count("there is no local copy of") == 2, said


def test_every_built_in_has_a_default_factor():
    assert set(builtin.NAMES) == set(builtin.DEFAULT_IMBALANCE_FACTOR)
