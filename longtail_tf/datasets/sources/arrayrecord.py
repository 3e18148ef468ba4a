"""`arrayrecord:GLOB`: ArrayRecord shards of tf.Example records, read through their own library."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from longtail_tf.datasets.index import Source
from longtail_tf.datasets.shards.shard_files import (
    find_records,
    missing_shards,
    relative_names,
    shard_files,
    shard_splits,
)
from longtail_tf.datasets.shards.shard_index import (
    Row,
    ShardIndex,
    cached_shard_indices,
    shard_index_of,
)
from longtail_tf.datasets.shards.shard_source import join_shards
from longtail_tf.datasets.sources.tfrecord import KEY_OPTIONS, OPTIONS, parse_record
from longtail_tf.errors import UserError

__all__ = ["OPTIONS", "read"]
_READ_AHEAD = 256


def read(path: str, options: Mapping[str, Any]) -> Source:
    """Reads labels from all shards that the glob `path` matches; kept in an index as for TFRecord.

    The library `array_record` must be there; tensorflow-datasets brings it on Linux.
    """
    paths = shard_files(path, suffix=".array_record")
    return source_of_shards(
        paths,
        shard_splits(paths, options["split"]),
        keys={name: options[name] for name in KEY_OPTIONS},
        channels=int(options["channels"]),
        name=os.path.basename(os.path.dirname(os.path.abspath(paths[0]))),
    )


def source_of_shards(
    paths: Sequence[str], codes: np.ndarray, *, keys: Mapping[str, str], channels: int, name: str
) -> Source:
    """The source of ArrayRecord shards; arguments as for TFRecord shards."""
    _reader_class()
    # The kind is part of the key: an index says nothing about shards of another format.
    scan = functools.partial(_scan, keys=keys)
    index_keys = {**keys, "kind": "arrayrecord"}
    joined = join_shards(cached_shard_indices(paths, keys=index_keys, scan=scan), paths)
    return Source(
        name=name,
        class_names=joined.class_names,
        labels=joined.labels,
        split=np.repeat(codes, np.diff(joined.first_rows)),
        store=ArrayRecordStore(_Readers(paths), joined.first_rows, dict(keys)),
        content=joined.content,
        image_shape=None,
        channels=channels,
        flip_is_valid=channels == 3,
        notes=missing_shards(paths),
    )


def _reader_class() -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise UserError(
            f"ArrayRecord shards need the package array_record, which cannot be imported ({error});"
            " install it with pip install array_record, or convert the shards to TFRecord"
        ) from error
    return ArrayRecordReader


def _scan(path: str, *, keys: Mapping[str, str]) -> ShardIndex:
    return shard_index_of(_rows(path, keys))


def _rows(path: str, keys: Mapping[str, str]) -> Iterator[Row]:
    reader = _open(path)
    total = reader.num_records()
    try:
        for begin in range(0, total, _READ_AHEAD):
            numbers = list(range(begin, min(begin + _READ_AHEAD, total)))
            for number, record in zip(numbers, _read(path, reader, numbers)):
                _, length, label, text = parse_record(
                    record, keys=keys, where=f"record {number} of {path}"
                )
                yield Row(number, length, label, text, zlib.crc32(record))
    finally:
        reader.close()


def _open(path: str) -> Any:
    try:
        reader = _reader_class()(path)
    except Exception as error:  # the library raises what its C++ part throws
        raise UserError(_damaged(path, error)) from error
    if not reader.ok():
        raise UserError(_damaged(path, "it is no whole ArrayRecord file"))
    return reader


def _read(path: str, reader: Any, numbers: list[int]) -> list[bytes]:
    try:
        records = reader.read(numbers)
    except Exception as error:
        raise UserError(_damaged(path, error)) from error
    if len(records) != len(numbers):
        raise UserError(_damaged(path, f"{len(records)} of {len(numbers)} records came back"))
    return records


def _damaged(path: str, reason: object) -> str:
    return (
        f"{path} cannot be read as an ArrayRecord file ({' '.join(str(reason).split())[:200]}); "
        "it is cut, damaged or of another format: copy or write it again"
    )


class _Readers:
    """One reader a shard, opened when first needed; the library's readers are not thread-safe."""

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)
        self.names = relative_names(paths)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def read(self, shard: int, numbers: list[int]) -> list[bytes]:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = _open(self.paths[shard])
            return _read(self.paths[shard], self._readers[shard], numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRecordStore:
    """Encoded images inside ArrayRecord shards.

    Attributes:
      readers: the shards.
      first_rows: int64 [shards + 1] the row at which each shard starts, and the row count.
      keys: names of the features.
    """

    readers: _Readers
    first_rows: np.ndarray
    keys: Mapping[str, str]

    @property
    def encoded(self) -> bool:
        """Always True: rows are encoded files."""
        return True

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows` [B]: object [B] of bytes."""
        rows = np.asarray(rows, np.int64)
        shards = np.searchsorted(self.first_rows, rows, side="right") - 1
        images = np.empty(len(rows), object)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            numbers = (rows[places] - self.first_rows[shard]).tolist()
            for place, record in zip(places.tolist(), self.readers.read(shard, numbers)):
                start, length, _, _ = parse_record(
                    record, keys=self.keys, where=self.describe(int(rows[place]))
                )
                images[place] = record[start : start + length]
        return images

    def describe(self, row: int) -> str:
        """`record 17 of PATH`."""
        shard, record = self._place(row)
        return f"record {record} of {self.readers.paths[shard]}"

    def key(self, row: int) -> str:
        """`shard:record number`, the shard relative to the folder that holds all of them."""
        shard, record = self._place(row)
        return f"{self.readers.names[shard]}:{record}"

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `ImageStore.find`."""
        return find_records(keys, names=self.readers.names, first_rows=self.first_rows)

    def _place(self, row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return shard, row - int(self.first_rows[shard])
