"""The tables of a run folder that have a line for each class: classes.csv and per_class.csv."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.text_files import csv_rows


@dataclasses.dataclass(frozen=True)
class Classes:
    """classes.csv: one entry a class, by class id.

    Attributes:
      names: user-given.
      train_counts: int64 [C], falling.
      is_head: bool [C].
      bands: int8 [C], positions in BANDS.
    """

    names: list[str]
    train_counts: np.ndarray
    is_head: np.ndarray
    bands: np.ndarray

    def band(self, class_id: int) -> str:
        """The shot band of a class: "many", "medium" or "few"."""
        return BANDS[self.bands[class_id]]


@dataclasses.dataclass(frozen=True)
class PerClass:
    """per_class.csv: the classes that have test images.

    Attributes:
      ids: int64 [T].
      test_images: int64 [T].
      recall, precision: float64 [T] in 0..1, NaN where there is none.
      most_confused_with: the other class's name, "" where there is none.
    """

    ids: np.ndarray
    test_images: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    most_confused_with: list[str]


def read_classes(path: pathlib.Path) -> Classes | None:
    """Reads classes.csv; None where it is missing.

    Raises:
      UserError: it is damaged.
      OSError: it cannot be read.
    """
    if not path.exists():
        return None
    names, counts, heads, bands = [], [], [], []
    try:
        for row in csv_rows(path, ("name", "train_count", "head", "band")):
            names.append(row["name"])
            counts.append(int(row["train_count"]))
            heads.append(row["head"].strip().lower() in ("1", "true", "yes"))
            bands.append(BANDS.index(row["band"]))
        train_counts = np.array(counts, np.int64)
    except (ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    if not names or min(counts) < 0:
        raise _damaged(path, "no class, or one of less than no image")
    return Classes(names, train_counts, np.array(heads, bool), np.array(bands, np.int8))


def read_per_class(path: pathlib.Path) -> PerClass | None:
    """Reads per_class.csv; None where it is missing.

    Raises:
      UserError: it is damaged.
      OSError: it cannot be read.
    """
    if not path.exists():
        return None
    ids, images, recall, precision, confused = [], [], [], [], []
    needed = ("id", "test_images", "recall", "precision", "most_confused_with")
    try:
        for row in csv_rows(path, needed):
            if not int(row["test_images"] or 0):
                continue
            ids.append(int(row["id"]))
            images.append(int(row["test_images"]))
            recall.append(_share(row["recall"]))
            precision.append(_share(row["precision"]))
            confused.append(row.get("most_confused_name") or row["most_confused_with"])
        return PerClass(
            np.array(ids, np.int64), np.array(images, np.int64), np.array(recall, np.float64),
            np.array(precision, np.float64), confused,
        )  # fmt: skip
    except (ValueError, OverflowError) as error:
        raise _damaged(path, error) from error


def _share(text: str) -> float:
    value = float(text or "nan")
    if not (math.isnan(value) or 0 <= value <= 1):
        raise ValueError(f"{text!r} is no share")
    return value


def _damaged(path: Any, error: object) -> UserError:
    return UserError(
        f"{path} is damaged ({type(error).__name__ if isinstance(error, Exception) else 'it holds'}"
        f": {error}): restore it from a copy, or evaluate the run again."
    )
