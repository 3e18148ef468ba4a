"""Images in one array in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from longtail_tf.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayStore:
    """Images uint8 [N, H, W, C] with the name of the file they came from."""

    images: np.ndarray
    file_name: str

    @property
    def encoded(self) -> bool:
        """Always False: rows are pixels."""
        return False

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows` [B]: uint8 [B, H, W, C]."""
        return self.images[rows]

    def describe(self, row: int) -> str:
        """`row 12 of x.npz`."""
        return f"row {row} of {self.file_name}"

    def key(self, row: int) -> str:
        """The row number."""
        return str(row)

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `ImageStore.find`; keys are row numbers."""
        rows = [_row_number(key, len(self.images)) for key in keys]
        known = np.array([row >= 0 for row in rows], bool)
        return np.unique(np.array(rows, np.int64)[known]), known


def _row_number(key: str, num_images: int) -> int:
    """The row that a key names; -1 where there is no such row."""
    digits = key.lstrip("0")
    if not key.isdecimal() or len(digits) > 18:  # more than any array has rows
        return -1
    row = int(digits or "0")
    return row if row < num_images else -1


def checked_images(images: np.ndarray, *, where: str) -> np.ndarray:
    """Images as uint8 [N, H, W, C] with C = 1 or 3.

    Args:
      images: uint8 [N, H, W] or [N, H, W, C].
      where: what holds them, for messages.
    """
    if images.dtype != np.uint8:
        raise UserError(
            f"{where} has images of type {images.dtype}; give uint8 pixels from 0 to 255 "
            "(multiply by 255 and round if yours run from 0 to 1)"
        )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{where} has images of shape {list(images.shape)}; give [N, H, W] for grey images or "
            "[N, H, W, C] with C = 1 or 3, channels last"
        )
    if 0 in images.shape:
        raise UserError(
            f"{where} has images of shape {list(images.shape)}, so no pixel at all; "
            "give at least one image of at least one pixel"
        )
    return images


def checked_labels(labels: np.ndarray, *, num_images: int, where: str) -> np.ndarray:
    """Labels as an integer array [N] without negative values.

    Args:
      labels: the array as read.
      num_images: N.
      where: what holds them, for messages.
    """
    if labels.dtype.kind not in "iu":
        missing = labels.dtype.kind == "f" and bool(np.isnan(labels).any())
        raise UserError(
            f"{where} has labels of type {labels.dtype}{' with missing values' if missing else ''};"
            " give whole numbers, the class id of every image"
        )
    if labels.shape != (num_images,):
        raise UserError(
            f"{where} has labels of shape {list(labels.shape)} for {num_images} images; "
            f"give shape [{num_images}], one label for each image"
        )
    negative = np.flatnonzero(labels < 0) if labels.dtype.kind == "i" else np.zeros(0, np.int64)
    if len(negative):
        raise UserError(
            f"{where} has the negative label {labels[negative[0]]} in row {negative[0]} "
            f"({len(negative)} such rows in all); give class ids from 0 and leave unlabelled "
            "images out"
        )
    return labels
