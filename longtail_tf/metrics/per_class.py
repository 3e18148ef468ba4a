"""The per-class table: how each class fares and which class it is mistaken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.accuracy import per_class_accuracy, per_class_precision
from longtail_tf.metrics.array_checks import checked_class_ids
from longtail_tf.metrics.shot_bands import band_names

COLUMNS = (
    "id",
    "name",
    "train_count",
    "band",
    "head",
    "test_images",
    "recall",
    "precision",
    "most_confused_with",
    "most_confused_name",
    "most_confused_images",
)


def per_class_rows(
    labels: np.ndarray,
    predictions: np.ndarray,
    *,
    class_names: Sequence[str],
    train_counts: np.ndarray,
    num_head: int,
) -> list[dict[str, Any]]:
    """Returns one dict a class with the keys of `COLUMNS`, by class id.

    Args:
      labels: int [N], true class ids.
      predictions: int [N]; -1 for a rejected image.
      class_names: C names.
      train_counts: int [C], training images of each class.
      num_head: H; head classes are ids 0..H-1.

    Returns:
      Rows whose `recall` is None without test images, `precision` None when the class was never
      predicted, and `most_confused_*` None when no image was given another class. Among equally
      frequent confusions the lower class id is named.
    """
    counts = np.asarray(train_counts)
    if len(class_names) != len(counts):
        raise UserError(
            f"{len(class_names)} class names and {len(counts)} training counts came; expected one "
            "of each for every class"
        )
    labels, predictions, num_classes = checked_class_ids(labels, predictions, len(counts))
    recall = per_class_accuracy(labels, predictions, num_classes)
    precision = per_class_precision(labels, predictions, num_classes)
    images = np.bincount(labels, minlength=num_classes)
    confused, times = _most_confused(labels, predictions, num_classes)
    rows = []
    for class_id, band in enumerate(band_names(counts)):
        other = int(confused[class_id])
        rows.append(
            {
                "id": class_id,
                "name": class_names[class_id],
                "train_count": int(counts[class_id]),
                "band": band,
                "head": int(class_id < num_head),
                "test_images": int(images[class_id]),
                "recall": _number(recall[class_id]),
                "precision": _number(precision[class_id]),
                "most_confused_with": None if other < 0 else other,
                "most_confused_name": None if other < 0 else class_names[other],
                "most_confused_images": None if other < 0 else int(times[class_id]),
            }
        )
    return rows


def confused_pairs(
    labels: np.ndarray, predictions: np.ndarray, *, limit: int = 20
) -> list[tuple[int, int, int]]:
    """Returns the most frequent (true class, predicted class, images) confusions, most first."""
    labels, predictions, num_classes = checked_class_ids(labels, predictions, None)
    true, predicted, times = _confusions(labels, predictions, num_classes)
    order = np.lexsort((predicted, true, -times))[:limit]
    return [(int(true[at]), int(predicted[at]), int(times[at])) for at in order]


def _confusions(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True class, predicted class and images of each pair that occurs; no C x C table."""
    wrong = (labels != predictions) & (predictions >= 0)
    pairs, times = np.unique(labels[wrong] * num_classes + predictions[wrong], return_counts=True)
    return pairs // num_classes, pairs % num_classes, times


def _most_confused(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    true, predicted, times = _confusions(labels, predictions, num_classes)
    order = np.lexsort((predicted, -times, true))
    first = order[np.flatnonzero(np.diff(true[order], prepend=-1))]
    other, count = np.full(num_classes, -1), np.zeros(num_classes, np.int64)
    other[true[first]], count[true[first]] = predicted[first], times[first]
    return other, count


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
