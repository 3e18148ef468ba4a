"""Fashion-MNIST from its four IDX files (LeCun 1998), gzipped or not."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import open_file

FILE_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_MOST_BYTES = 1 << 30
_PACKAGE_FOLDER = os.path.join("share", "datasets", "fashion-mnist")


def keras_cache() -> str:
    """The folder where Keras keeps the data sets that it downloaded."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return os.path.join(home, "datasets")


def find(folder: str) -> str:
    """The folder with the four Fashion-MNIST files; empty where there is none.

    Args:
      folder: the only folder to look in; empty for the usual places.
    """
    places = (
        [folder]
        if folder
        else [
            os.path.join(sys.prefix, _PACKAGE_FOLDER),
            os.path.join(os.sep, "usr", _PACKAGE_FOLDER),
            os.path.join(keras_cache(), "fashion-mnist"),
        ]
    )
    for place in places:
        if all(_path(place, name) for name in FILE_NAMES):
            return place
    return ""


def read_fashion_mnist(folder: str) -> tuple[np.ndarray, ...]:
    """(train images, train labels, test images, test labels) from the four files."""
    arrays = tuple(read_idx(_path(folder, name)) for name in FILE_NAMES)
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() > 9:
            raise UserError(
                f"the IDX files in {folder} do not fit together: images {list(images.shape)}, "
                f"labels {list(labels.shape)} up to {labels.max()}; fetch them again"
            )
    return arrays


def read_idx(path: str) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not."""
    try:
        with open_file(path, most_bytes=_MOST_BYTES) as raw:
            file: Any = gzip.open(raw) if path.endswith(".gz") else raw
            data = file.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again") from error
    rank = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data, ">u4", rank, 4) if len(data) >= 4 + 4 * rank else np.zeros(0)
    if data[:3] != b"\0\0\x08" or not rank or len(data) != 4 + 4 * rank + shape.prod(dtype=int):
        raise UserError(f"{path} is no whole IDX file of bytes; fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape.astype(int))


def _path(folder: str, name: str) -> str:
    for candidate in (os.path.join(folder, name + ".gz"), os.path.join(folder, name)):
        if os.path.isfile(candidate):
            return candidate
    return ""
