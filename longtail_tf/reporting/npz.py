"""Arrays of an .npz file read as a stream: a million prototypes need not fit in memory."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from longtail_tf.errors import UserError

CHUNK_ROWS = 32768


def array_names(path: Any) -> list[str]:
    """Names of the arrays in an .npz file.

    Raises:
      UserError: the file is damaged.
    """
    with _archive(path) as archive:
        return [name[:-4] for name in archive.namelist() if name.endswith(".npy")]


def chunks(path: Any, name: str, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[np.ndarray]:
    """The array `name` in runs of rows, from the first to the last.

    Raises:
      UserError: the file is damaged, or has no such array of numbers or texts.
    """
    with _archive(path) as archive:
        try:
            member = archive.open(f"{name}.npy")
        except KeyError:
            raise UserError(
                f"{path} has no array {name!r}, only {', '.join(archive.namelist())}: evaluate the "
                "run again with this longtail_tf."
            ) from None
        with member as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(file)
            if dtype.hasobject or is_fortran or not shape:
                raise UserError(
                    f"the array {name!r} of {path} is not a plain array of rows: evaluate the run "
                    "again with this longtail_tf."
                )
            row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
            for start in range(0, shape[0], chunk_rows):
                rows = min(chunk_rows, shape[0] - start)
                raw = file.read(rows * row_bytes)
                yield np.frombuffer(raw, dtype).reshape(rows, *shape[1:])


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


@contextlib.contextmanager
def _archive(path: Any) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy.") from error
