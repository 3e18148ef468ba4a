"""Built-in sets from local copies in each of their published layouts."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from longtail_tf.datasets import load_index
from longtail_tf.datasets.long_tail import long_tailed_counts
from longtail_tf.datasets.sources import builtin, cifar_files
from longtail_tf.datasets.sources.cifar_files import default_class_names
from longtail_tf.errors import UserError


@pytest.fixture(autouse=True)
def no_copy_elsewhere(monkeypatch, tmp_path):
    """Hides copies on this machine, so that only the test's own files count."""
    monkeypatch.setattr(cifar_files, "_PACKAGE_FOLDER", "no-such-folder")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def test_digits_lt():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
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
    digits = sklearn_datasets.load_digits()
    known = {(image * 255 / 16).round().astype(np.uint8).tobytes(): label
             for image, label in zip(digits.images, digits.target)}  # fmt: skip
    names = [int(index.class_names[i]) for i in index.test.labels]
    assert [known[image.tobytes()] for image in images] == names


def test_digits_test_set_is_the_same_for_every_seed():
    pytest.importorskip("sklearn")
    first, other = load_index("digits_lt?seed=0"), load_index("digits_lt?seed=1")
    whole = load_index("digits_lt?imbalance_factor=1", val_per_class=0)
    rows = [sorted(index.test.store_rows) for index in (first, other, whole)]
    assert rows[0] == rows[1] == rows[2]
    assert sorted(first.train.store_rows) != sorted(other.train.store_rows)
    assert not set(whole.train.store_rows) & set(rows[0])
    assert list(whole.class_counts) == [120] * 10


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"digits_lt needs scikit-learn.*longtail_tf\[demo\]"):
        load_index("digits_lt")


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
    monkeypatch.setattr(cifar_files, "_PACKAGE_FOLDER", str(tmp_path / "package"))
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


def cifar_arrays(count, num_classes, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = np.arange(count) % num_classes
    images[:, 3, 5, 2] = labels
    return images, labels


def write_cifar(folder, name, binary):
    folder.mkdir(parents=True)
    hundred = name == "cifar100"
    train = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    classes = 100 if hundred else 10
    for seed, batch in enumerate([*train, "test" if hundred else "test_batch"]):
        images, labels = cifar_arrays(300 if hundred else 40, classes, seed)
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        if binary:
            head = [labels // 5, labels] if hundred else [labels]
            records = np.concatenate([np.stack(head, 1).astype(np.uint8), planes], 1)
            (folder / f"{batch}.bin").write_bytes(records.tobytes())
        else:
            key = b"fine_labels" if hundred else b"labels"
            content = {b"data": planes, key: labels.tolist(), b"batch_label": b"x"}
            (folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"name {i}" for i in range(classes)]
    if binary:
        text = "fine_label_names.txt" if hundred else "batches.meta.txt"
        (folder / text).write_text("\n".join(names) + "\n\n")
    else:
        key = b"fine_label_names" if hundred else b"label_names"
        content = {key: [n.encode() for n in names]}
        (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(content, 2))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_versions(tmp_path, name, binary):
    inner = {"cifar10": "cifar-10-batches-", "cifar100": "cifar-100-"}[name]
    inner += ("bin" if name == "cifar10" else "binary") if binary else (
        "py" if name == "cifar10" else "python")  # fmt: skip
    write_cifar(tmp_path / "c" / inner, name, binary)
    index = load_index(f"{name}_lt?imbalance_factor=1&folder={tmp_path / 'c'}", val_per_class=0)
    assert index.image_shape == (32, 32, 3) and index.flip_is_valid
    assert index.num_classes == (100 if name == "cifar100" else 10)
    assert index.class_names[3] == "name 3" and len(index.train) == (
        300 if name == "cifar100" else 200
    )
    pixels = index.train.read(np.arange(len(index.train)))[:, 3, 5, 2]
    np.testing.assert_array_equal(pixels, index.train.labels)
    assert load_index(f"{name}_lt?folder={tmp_path / 'c' / inner}&imbalance_factor=2").num_classes


class Malice:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "c", "cifar10", binary=False)
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps({b"data": Malice()}, 2))
    with pytest.raises(UserError, match="data_batch_3 is not a plain pickle of arrays .*system"):
        load_index(f"cifar10_lt?folder={tmp_path / 'c'}")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "batch, content, match",
    [
        ("data_batch_1", pickle.dumps([1]), "it holds a list"),
        ("data_batch_1", b"", "not a plain pickle"),
        ("data_batch_1", pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}, 2),
         "does not hold CIFAR images"),
        ("test_batch", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, 2),
         "no labels from 0 to 9"),
    ],
)  # fmt: skip
def test_damaged_cifar(tmp_path, batch, content, match):
    write_cifar(tmp_path / "c", "cifar10", binary=False)
    (tmp_path / "c" / batch).write_bytes(content)
    with pytest.raises(UserError, match=match):
        load_index(f"cifar10_lt?folder={tmp_path / 'c'}")


def test_cut_binary_cifar(tmp_path):
    write_cifar(tmp_path / "c", "cifar10", binary=True)
    path = tmp_path / "c" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="data_batch_2.bin has .* no whole number of images"):
        load_index(f"cifar10_lt?folder={tmp_path / 'c'}")


def test_names_where_no_file_gives_them(tmp_path):
    write_cifar(tmp_path / "c", "cifar10", binary=False)
    (tmp_path / "c" / "batches.meta").unlink()
    index = load_index(f"cifar10_lt?imbalance_factor=2&folder={tmp_path / 'c'}")
    assert index.class_names[0] == "airplane"
    assert len(set(default_class_names("cifar100"))) == 100


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_a_folder_without_the_files(tmp_path, name):
    with pytest.raises(UserError, match=f"{tmp_path} holds no .* it needs (train|data_batch_1)"):
        load_index(f"{name}_lt?folder={tmp_path}")


def fake_keras(monkeypatch, load_data):
    """Stands for Keras' downloader, so that the test needs no network."""
    datasets = types.SimpleNamespace(fashion_mnist=types.SimpleNamespace(load_data=load_data))
    tensorflow = types.SimpleNamespace(keras=types.SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)


def test_keras_download_comes_last(monkeypatch):
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    arrays = np.zeros((30, 28, 28), np.uint8), labels
    fake_keras(monkeypatch, lambda: (arrays, arrays))
    assert len(load_index("fashion_mnist_lt?imbalance_factor=1").test) == 30


def test_no_copy_and_no_network(monkeypatch):
    def fail():
        raise OSError("no network")

    fake_keras(monkeypatch, fail)
    with pytest.raises(UserError, match="no network.; install the Debian package dataset-fashion"):
        load_index("fashion_mnist_lt")


def test_every_built_in_has_a_default_factor():
    assert set(builtin.NAMES) == set(builtin.DEFAULT_IMBALANCE_FACTOR)
