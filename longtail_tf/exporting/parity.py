"""What each TFLite file costs in accuracy, and what it saves, against Keras on the same images."""

from __future__ import annotations

import io
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from longtail_tf.exporting.device import DeviceClassifier
from longtail_tf.images import preprocess
from longtail_tf.metrics import shot_accuracy

BANDS = ("all", "many", "medium", "few")
MIN_AGREEMENT = {"float32": 0.999, "float16": 0.995, "dynamic": 0.97, "int8": 0.97}
LATENCY_RUNS = 50


def parity_report(
    paths: Mapping[tuple[str, str], pathlib.Path],
    *,
    images: np.ndarray,
    labels: np.ndarray,
    train_counts: np.ndarray,
    keras_scores: np.ndarray,
) -> list[dict[str, Any]]:
    """One row a file: size, latency, agreement with Keras, accuracy by band.

    Args:
      paths: file by (kind, variant).
      images: uint8 [N, S, S, C], preprocessed test images.
      labels: int [N], their classes.
      train_counts: int [C], training images of each class.
      keras_scores: float [N, C], prototype scores of the Keras network for the same images.

    Returns:
      JSON-ready rows; the first is Keras itself. Latency is the median of single images on one
      thread, in milliseconds; accuracies are fractions, None for an empty band.
    """
    best = keras_scores.argmax(axis=1)
    rows = [
        {"kind": "keras", "variant": "float32", "file": None, "size_bytes": None,
         "latency_ms": None, "top1_agreement": 1.0, "max_cosine_difference": 0.0, "meets": True,
         "accuracy": shot_accuracy(labels, best, train_counts)}
    ]  # fmt: skip
    for (kind, variant), path in paths.items():
        device = DeviceClassifier(path, threads=1)
        scores = np.stack([device.scores(image) for image in images])
        predicted = scores.argmax(axis=1)
        agreement = float(np.mean(predicted == best))
        rows.append(
            {
                "kind": kind,
                "variant": variant,
                "file": path.name,
                "size_bytes": path.stat().st_size,
                "latency_ms": latency_ms(device, images),
                "top1_agreement": agreement,
                "max_cosine_difference": float(np.abs(scores - keras_scores).max()),
                "meets": agreement >= MIN_AGREEMENT[variant],
                "accuracy": shot_accuracy(labels, predicted, train_counts),
            }
        )
    return rows


def latency_ms(device: DeviceClassifier, images: np.ndarray) -> float:
    """Median time of one image through the model, one after the other, in milliseconds."""
    times = []
    for run in range(LATENCY_RUNS):
        start = time.perf_counter()
        device.outputs(images[run % len(images)])
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def parity_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The report as text, one line a file; accuracies in percent."""
    head = f"{'model':<22}{'KiB':>8}{'ms':>8}{'agree':>8}{'cos diff':>10}"
    lines = [head + "".join(f"{band:>8}" for band in BANDS)]
    for row in rows:
        size, latency = row["size_bytes"], row["latency_ms"]
        line = f"{row['kind'] + ' ' + row['variant']:<22}"
        line += f"{'-' if size is None else round(size / 1024):>8}"
        line += f"{'-' if latency is None else f'{latency:.2f}':>8}"
        line += f"{row['top1_agreement']:>8.3f}{row['max_cosine_difference']:>10.4f}"
        line += "".join(f"{_percent(row['accuracy'][band]):>8}" for band in BANDS)
        lines.append(line + ("" if row["meets"] else "  below its agreement limit"))
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


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


def generated_images(count: int, *, side: int) -> list[bytes]:
    """PNG files of coloured waves, each another: where no real image is at hand."""
    draws = np.random.default_rng(0)
    at = np.arange(side) / side
    files = []
    for _ in range(max(count, 2)):
        across, down, phase = draws.uniform(1, 8, 3), draws.uniform(1, 8, 3), draws.uniform(0, 6, 3)
        waves = np.sin(6.3 * (at[:, None, None] * down + at[None, :, None] * across) + phase)
        files.append(_png((127.5 + 127.5 * waves).astype(np.uint8)))
    return files


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
