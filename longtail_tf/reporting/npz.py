"""Arrays of an .npz file read as a stream: a million prototypes need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.npz_files import array_names, open_array

__all__ = ["array_names", "chunks", "rows_of", "whole_array"]
CHUNK_ROWS = 32768


def chunks(path: Any, name: str, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[np.ndarray]:
    """The array `name` in runs of rows, from the first to the last.

    Raises:
      UserError: the file is damaged, or has no such array of numbers.
      OSError: it cannot be read.
    """
    with open_array(path, name) as array:
        if array.dtype.kind not in "iuf" or array.is_fortran or not array.shape:
            raise UserError(
                f"the array {name!r} of {path} is not a plain array of rows: evaluate the run "
                "again with this longtail_tf."
            )
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        for start in range(0, array.shape[0], chunk_rows):
            rows = min(chunk_rows, array.shape[0] - start)
            raw = array.file.read(rows * row_bytes)
            if len(raw) != rows * row_bytes:
                raise UserError(f"the array {name!r} of {path} is cut off: restore it from a copy.")
            yield np.frombuffer(raw, array.dtype).reshape(rows, *array.shape[1:])


def whole_array(path: Any, name: str) -> np.ndarray:
    """The array `name` at once."""
    return np.concatenate(list(chunks(path, name)) or [np.zeros(0)])


def rows_of(path: Any, name: str, rows: np.ndarray) -> np.ndarray:
    """The given rows [B] of the array `name`, in that order, without holding the others.

    Returns:
      [B, ...] of the array's type.
    """
    rows = np.asarray(rows, np.int64)
    order = np.argsort(rows, kind="stable")
    wanted, start, found = rows[order], 0, []
    for chunk in chunks(path, name):
        first, last = np.searchsorted(wanted, [start, start + len(chunk)])
        found.append(chunk[wanted[first:last] - start])
        start += len(chunk)
    picked = np.concatenate(found) if found else np.zeros((0,), np.float32)
    if len(picked) != len(rows):
        raise UserError(
            f"the array {name!r} of {path} has {start} rows, but row {wanted[-1]} was asked for: "
            "evaluate the run again with this longtail_tf."
        )
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return picked[back]
