"""A split of a data set: labels in memory, images read by row wherever they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class ImageStore(Protocol):
    """Where the images of a source lie; rows are positions in the source, before any split."""

    @property
    def encoded(self) -> bool:
        """Whether `read` gives encoded files (bytes) and not pixels."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows` int [B]: uint8 [B, H, W, C], or object [B] of bytes."""

    def describe(self, row: int) -> str:
        """Where the image lies, for messages."""

    def key(self, row: int) -> str:
        """The name of the image in lists of images to exclude: the same wherever the set lies."""

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64 of all images with one of the keys, bool [len(keys)] which are known)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images with random access by row.

    Attributes:
      labels: int32 [N] class ids.
      store: where the images lie.
      store_rows: int [N], the row of each image in `store`; None where they are the same.
    """

    labels: np.ndarray
    store: ImageStore
    store_rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def encoded(self) -> bool:
        """Whether `read` gives encoded files (bytes) and not pixels."""
        return self.store.encoded

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Reads the images of `rows` int [B]: uint8 [B, H, W, C], or object [B] of bytes."""
        rows = np.asarray(rows)
        return self.store.read(rows if self.store_rows is None else self.store_rows[rows])

    def describe(self, row: int) -> str:
        """Where the image of `row` lies: a path, or a row of a file."""
        return self.store.describe(self._store_row(row))

    def key(self, row: int) -> str:
        """The name of the image of `row` in lists of images to exclude."""
        return self.store.key(self._store_row(row))

    def _store_row(self, row: int) -> int:
        return int(row) if self.store_rows is None else int(self.store_rows[row])
