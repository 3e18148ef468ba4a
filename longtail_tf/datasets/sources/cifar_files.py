"""CIFAR-10 and CIFAR-100 from their own files, without running anything stored in them."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import numpy as np

from longtail_tf.datasets.sources.fashion_mnist_files import keras_cache
from longtail_tf.errors import UserError

_TRAIN_BATCHES = {
    "cifar10": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "cifar100": ("train",),
}
_TEST_BATCH = {"cifar10": "test_batch", "cifar100": "test"}
_META = {"cifar10": "batches.meta", "cifar100": "meta"}
_META_TEXT = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}
# Folder names inside the published archives.
_INNER = {
    "cifar10": ("", "cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("", "cifar-100-python", "cifar-100-binary"),
}
_NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
_CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def find(name: str, folder: str) -> str:
    """The folder that holds the files of `cifar10` or `cifar100`; empty where there is none."""
    for place in [folder] if folder else [keras_cache()]:
        for inner in _INNER[name]:
            candidate = os.path.join(place, inner)
            batches = (*_TRAIN_BATCHES[name], _TEST_BATCH[name])
            if any(
                all(os.path.isfile(os.path.join(candidate, batch + end)) for batch in batches)
                for end in ("", ".bin")
            ):
                return candidate
    return ""


def expected(name: str) -> str:
    """Which files `find` looks for, in words."""
    batches = (*_TRAIN_BATCHES[name], _TEST_BATCH[name])
    return f"{', '.join(batches)} (python version) or the same names with .bin (binary version)"


def default_class_names(name: str) -> tuple[str, ...]:
    """Names for use where no file gives them: CIFAR-10's own, numbers for CIFAR-100."""
    if name == "cifar10":
        return _CIFAR10_NAMES
    return tuple(f"class {i:02d}" for i in range(_NUM_CLASSES[name]))


def read_cifar(name: str, folder: str) -> tuple[np.ndarray, ...]:
    """(train images, train labels, test images, test labels).

    Args:
      name: `cifar10` or `cifar100`.
      folder: what `find` gave.

    Returns:
      Images uint8 [N, 32, 32, 3], labels int32 [N].
    """
    parts = [_read_batch(name, folder, batch) for batch in _TRAIN_BATCHES[name]]
    test_images, test_labels = _read_batch(name, folder, _TEST_BATCH[name])
    return (
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        test_images,
        test_labels,
    )


def _read_batch(name: str, folder: str, batch: str) -> tuple[np.ndarray, np.ndarray]:
    path = os.path.join(folder, batch)
    if os.path.isfile(path):
        table = _restricted_load(path)
        pixels = np.asarray(table.get(b"data", table.get("data")))
        key = "fine_labels" if name == "cifar100" else "labels"
        labels = np.asarray(table.get(key.encode(), table.get(key)))
    else:
        path += ".bin"
        # Binary records: one label byte (CIFAR-100: coarse, then fine), then the planes.
        head = 2 if name == "cifar100" else 1
        records = np.fromfile(path, np.uint8)
        if len(records) % (head + 3072):
            raise UserError(
                f"{path} has {len(records):,} bytes, no whole number of images; " "fetch it again"
            )
        records = records.reshape(-1, head + 3072)
        pixels, labels = records[:, head:], records[:, head - 1]
    whole = pixels.ndim == 2 and pixels.shape[1:] == (3072,) and pixels.dtype == np.uint8
    if not whole or labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(f"{path} does not hold CIFAR images and labels; fetch it again")
    if not len(labels) or labels.min() < 0 or labels.max() >= _NUM_CLASSES[name]:
        raise UserError(
            f"{path} holds no labels from 0 to {_NUM_CLASSES[name] - 1}; " "fetch it again"
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int32)


def read_class_names(name: str, folder: str) -> tuple[str, ...]:
    """The class names beside the images; `default_class_names` where there are none."""
    key = "fine_label_names" if name == "cifar100" else "label_names"
    names: tuple[str, ...] = ()
    if os.path.isfile(os.path.join(folder, _META[name])):
        table = _restricted_load(os.path.join(folder, _META[name]))
        names = tuple(
            label.decode() if isinstance(label, bytes) else str(label)
            for label in table.get(key.encode(), table.get(key, ()))
        )
    elif os.path.isfile(os.path.join(folder, _META_TEXT[name])):
        with open(os.path.join(folder, _META_TEXT[name]), encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    return names if len(set(names)) == _NUM_CLASSES[name] else default_class_names(name)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles containers and numpy arrays; anything else a pickle could call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _restricted_load(path: str) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            table = _PlainUnpickler(io.BytesIO(file.read()), encoding="bytes").load()
        if not isinstance(table, dict):
            raise pickle.UnpicklingError(f"it holds a {type(table).__name__}")
    except Exception as error:
        raise UserError(
            f"{path} is not a plain pickle of arrays ({error}); fetch it again"
        ) from error
    return table
