"""The tables of a run folder that have a line for each class: classes.csv and per_class.csv."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.shot_bands import BANDS


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
    """
    if not path.is_file():
        return None
    names, counts, heads, bands = [], [], [], []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in _rows(file):
                names.append(row["name"])
                counts.append(int(row["train_count"]))
                heads.append(row["head"].strip().lower() in ("1", "true", "yes"))
                bands.append(BANDS.index(row["band"]))
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise _damaged(path, error) from error
    is_head, band_ids = np.array(heads, bool), np.array(bands, np.int8)
    return Classes(names, np.array(counts, np.int64), is_head, band_ids)


def read_per_class(path: pathlib.Path) -> PerClass | None:
    """Reads per_class.csv; None where it is missing.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    ids, images, recall, precision, confused = [], [], [], [], []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in _rows(file):
                if not int(row["test_images"] or 0):
                    continue
                ids.append(int(row["id"]))
                images.append(int(row["test_images"]))
                recall.append(float(row["recall"] or "nan"))
                precision.append(float(row["precision"] or "nan"))
                confused.append(row.get("most_confused_name") or row["most_confused_with"] or "")
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise _damaged(path, error) from error
    return PerClass(
        np.array(ids, np.int64), np.array(images, np.int64), np.array(recall, np.float64),
        np.array(precision, np.float64), confused,
    )  # fmt: skip


def _rows(file: TextIO) -> Iterator[dict[str, str]]:
    """Rows of a CSV file; before Python 3.11 its reader refuses a NUL in a name."""
    return csv.DictReader(line.replace("\0", "\N{REPLACEMENT CHARACTER}") for line in file)


def _damaged(path: Any, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged ({type(error).__name__}: {error}): restore it from a copy, or evaluate "
        "the run again."
    )
