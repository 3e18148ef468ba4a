"""Many strings in two arrays: a million class names or ten million paths without Python lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

# Gathering works on this many strings at a time, so that its index arrays stay small.
_GATHER_CHUNK = 1 << 18


class StringTable(Sequence[str]):
    """A read-only sequence of strings kept as UTF-8 bytes and offsets.

    Names that are no valid UTF-8 (file names may hold any bytes) keep their bytes and come back
    with surrogate escapes, as `os.fsdecode` gives them, so that opening the file still works.

    Attributes:
      data: uint8 [sum of lengths], all strings one after another.
      offsets: uint32 or uint64 [N + 1]; string `i` is `data[offsets[i]:offsets[i + 1]]`.
    """

    __slots__ = ("data", "offsets")

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data = data
        self.offsets = offsets

    @classmethod
    def from_strings(cls, strings: Iterable[str | bytes]) -> StringTable:
        """Builds a table from any iterable, which is read once."""
        joined = bytearray()
        ends = _GrowingOffsets()
        for string in strings:
            joined += string if isinstance(string, bytes) else _encode(string)
            ends.append(len(joined))
        return cls(np.frombuffer(bytes(joined), np.uint8), ends.finish(len(joined)))

    @classmethod
    def concatenate(cls, tables: Sequence[StringTable]) -> StringTable:
        """The strings of all tables, one table after another."""
        data = np.concatenate([np.zeros(0, np.uint8), *(table.data for table in tables)])
        offsets: np.ndarray = np.zeros(
            1 + sum(len(table) for table in tables), _offset_type(len(data))
        )
        at, shift = 1, 0
        for table in tables:
            part = table.offsets[1:].astype(offsets.dtype) + offsets.dtype.type(shift)
            offsets[at : at + len(table)] = part
            at, shift = at + len(table), shift + len(table.data)
        return cls(data, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def bytes_at(self, index: int) -> bytes:
        """The bytes of string `index`, which counts from the end where it is negative."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"string {index} of {length}")
        index %= length
        return self.data[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringTable: ...
    def __getitem__(self, index: int | slice) -> str | StringTable:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        return self.bytes_at(int(index)).decode("utf-8", "surrogateescape")

    def take(self, ids: np.ndarray | Sequence[int]) -> StringTable:
        """The strings at `ids` [M], in that order, as a new table."""
        ids = np.asarray(ids, np.int64)
        lengths = (self.offsets[ids + 1] - self.offsets[ids]).astype(np.int64)
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        for begin in range(0, len(ids), _GATHER_CHUNK):
            part = slice(begin, begin + _GATHER_CHUNK)
            first, last = int(offsets[begin]), int(offsets[min(begin + _GATHER_CHUNK, len(ids))])
            shifts = self.offsets[ids[part]].astype(np.int64) - offsets[:-1][part]
            data[first:last] = self.data[np.repeat(shifts, lengths[part]) + np.arange(first, last)]
        return StringTable(data, offsets.astype(_offset_type(len(data))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringTable):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)

    def __hash__(self) -> int:
        return hash((len(self), self.data[:256].tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(repr(name) for name in self[:3])
        return f"StringTable({len(self)} strings: {shown}{', ...' if len(self) > 3 else ''})"

    @property
    def nbytes(self) -> int:
        """Bytes held by the two arrays."""
        return self.data.nbytes + self.offsets.nbytes


class _GrowingOffsets:
    """Offsets gathered one by one in machine words."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._block = np.empty(1 << 16, np.int64)
        self._block[0] = 0
        self._used = 1

    def append(self, value: int) -> None:
        if self._used == len(self._block):
            self._blocks.append(self._block)
            self._block = np.empty(1 << 16, np.int64)
            self._used = 0
        self._block[self._used] = value
        self._used += 1

    def finish(self, total: int) -> np.ndarray:
        blocks = [*self._blocks, self._block[: self._used]]
        return np.concatenate([block.astype(_offset_type(total)) for block in blocks])


def _encode(string: str) -> bytes:
    return string.encode("utf-8", "surrogateescape")


def _offset_type(total: int) -> type:
    return np.uint32 if total < 2**32 else np.uint64
