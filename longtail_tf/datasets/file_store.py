"""Images in files of their own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from longtail_tf.datasets.index import array_digest
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.errors import UserError
from longtail_tf.files import MOST_IMAGE_BYTES, read_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class FileStore:
    """Image files under one root folder.

    Folder names are kept once for all files in them: ten million files of twenty-byte names take
    280 MB.

    Attributes:
      root: folder that all paths start from.
      folders: relative folders; ignored where `folder_ids` is None.
      folder_ids: int32 [N] folder of each file, or None where `names` are whole relative paths.
      names: N file names.
      sizes: int64 or uint32 [N] bytes of each file when the index was read.
      times: digest of when each file was last written, as `times_digest` gives it.
    """

    root: str
    folders: StringTable
    folder_ids: np.ndarray | None
    names: StringTable
    sizes: np.ndarray
    times: bytes = b""

    @property
    def encoded(self) -> bool:
        """Always True: rows are encoded files."""
        return True

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The files of `rows` [B]: object [B] of bytes."""
        files = np.empty(len(rows), object)
        for i, row in enumerate(rows):
            path = self.describe(int(row))
            try:
                files[i] = read_bytes(path, most_bytes=MOST_IMAGE_BYTES)
            except OSError as error:
                raise UserError(
                    f"the image {path} cannot be read any more ({error.strerror}); restore it, "
                    "or start again, so that the folder is read again"
                ) from error
        return files

    def describe(self, row: int) -> str:
        """The path of the file."""
        return os.path.join(self.root, self.key(row))

    def key(self, row: int) -> str:
        """The path relative to the root, with forward slashes."""
        if self.folder_ids is None:
            return self.names[row]
        folder = self.folders[int(self.folder_ids[row])]
        return f"{folder}/{self.names[row]}" if folder else self.names[row]

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `ImageStore.find`; keys are relative paths, and a table may hold one twice."""
        wanted, found = set(keys), set()
        rows = []
        for row in range(len(self.names)):
            key = self.key(row)
            if key in wanted:
                rows.append(row)
                found.add(key)
        return np.array(rows, np.int64), np.array([key in found for key in keys], bool)

    def digest(self) -> bytes:
        """The digest of relative paths and sizes: the same wherever the root lies."""
        folder_ids = self.names.offsets[:0] if self.folder_ids is None else self.folder_ids
        folders, names = self.folders, self.names
        return array_digest(
            folders.offsets, folders.data, names.offsets, names.data, folder_ids, self.sizes
        )
