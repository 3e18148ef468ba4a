"""Images inside TFRecord shards, read at random by offset."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf.datasets.shards.shard_files import find_records, relative_names
from longtail_tf.errors import UserError

# Below the usual limit of 1,024 open files, with room for everything else.
_MOST_OPEN = 512


class OpenShards:
    """Read-only file descriptors by shard, opened when first needed and shared by threads."""

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)
        self.names = relative_names(paths)
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset`."""
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, length, offset)
        descriptor = os.open(self.paths[shard], os.O_RDONLY)
        with self._lock:
            keep = len(self._descriptors) < _MOST_OPEN and shard not in self._descriptors
            if keep:
                self._descriptors[shard] = descriptor
        try:
            return os.pread(descriptor, length, offset)
        finally:
            if not keep:
                os.close(descriptor)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordStore:
    """Encoded images inside shards.

    Attributes:
      shards: the shard files.
      first_rows: int64 [shards + 1] the row at which each shard starts, and the row count.
      offsets: uint64 [N] where each image starts in its shard.
      lengths: uint32 [N] bytes of each image.
    """

    shards: OpenShards
    first_rows: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    @property
    def encoded(self) -> bool:
        """Always True: rows are encoded files."""
        return True

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows` [B]: object [B] of bytes."""
        rows = np.asarray(rows, np.int64)
        shards = (np.searchsorted(self.first_rows, rows, side="right") - 1).tolist()
        offsets, lengths = self.offsets[rows].tolist(), self.lengths[rows].tolist()
        images = np.empty(len(rows), object)
        for i, (shard, offset, length) in enumerate(zip(shards, offsets, lengths)):
            try:
                image = self.shards.read(shard, offset, length)
            except OSError as error:
                raise UserError(
                    f"{self.shards.paths[shard]} cannot be read any more ({error.strerror}); "
                    "restore it and start again"
                ) from error
            if len(image) != length:
                raise UserError(
                    f"{self.shards.paths[shard]} became shorter while it was in use: an image at "
                    f"byte {offset:,} is cut; start again, so that its index is built again"
                )
            images[i] = image
        return images

    def describe(self, row: int) -> str:
        """`record 17 of PATH`."""
        shard, record = self._place(row)
        return f"record {record} of {self.shards.paths[shard]}"

    def key(self, row: int) -> str:
        """`shard:record number`, the shard relative to the folder that holds all of them."""
        shard, record = self._place(row)
        return f"{self.shards.names[shard]}:{record}"

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `ImageStore.find`."""
        return find_records(keys, names=self.shards.names, first_rows=self.first_rows)

    def _place(self, row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return shard, row - int(self.first_rows[shard])
