"""Real images for gates, calibration and the parity report, out of the run's data set."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from longtail_tf.images import preprocess


def spread_rows(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """At most `count` rows with the classes taken in turns, int64, ascending; seeded.

    Every class gives one image before any gives a second, so the tail is seen too.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    grouped = labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(grouped, grouped, side="left")
    first = by_class[np.lexsort((np.random.default_rng(seed + 1).random(len(labels)), turn))]
    return np.sort(first[:count]).astype(np.int64)


def image_files(split: Any, rows: np.ndarray) -> list[bytes]:
    """Encoded images of `rows`: the files themselves, or arrays as lossless PNG."""
    images = split.read(rows)
    if split.encoded:
        return [bytes(file) for file in images]
    return [_png(image) for image in images]


def preprocessed(files: list[bytes], *, image_size: int, channels: int) -> np.ndarray:
    """uint8 [N, S, S, C], as evaluation and serving see the files; unreadable ones left out."""
    images, valid = preprocess.preprocess_many(
        tf.constant(files), image_size=image_size, channels=channels, parallel_calls=4
    )
    return images.numpy()[valid.numpy()]


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()
