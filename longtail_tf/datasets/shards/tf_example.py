"""tf.Example records without TensorFlow: finding features in them, and writing them.

An Example is a protobuf: field 1 (features) holds map entries (field 1: name, field 2: value),
and a value holds a list of bytes (field 1), floats (2) or integers (3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES_LIST, _FLOAT_LIST, _INT_LIST = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class BadExampleError(ValueError):
    """The bytes are no tf.Example."""


class Feature(NamedTuple):
    """The first value of a feature: its place in the record where bytes, else the number."""

    start: int = -1
    length: int = 0
    number: int | None = None


def find_features(record: bytes) -> dict[bytes, Feature]:
    """The first value of every feature of an Example; float and empty features have neither.

    Raises:
      BadExampleError: the record is no tf.Example.
    """
    found: dict[bytes, Feature] = {}
    try:
        for field, begin, end in _fields(record, 0, len(record)):
            if field == 1:
                for inner, entry, entry_end in _fields(record, begin, end):
                    if inner == 1:
                        _read_entry(record, entry, entry_end, found)
    except IndexError as error:
        raise BadExampleError("it ends inside a field") from error
    return found


def _read_entry(record: bytes, begin: int, end: int, found: dict[bytes, Feature]) -> None:
    name, feature = b"", Feature()
    for field, start, stop in _fields(record, begin, end):
        if field == 1:
            name = record[start:stop]
        elif field == 2:
            feature = _first_value(record, start, stop)
    found[name] = feature


def _first_value(record: bytes, begin: int, end: int) -> Feature:
    for kind, start, stop in _fields(record, begin, end):
        if kind == _BYTES_LIST:
            for field, first, last in _fields(record, start, stop):
                if field == 1:
                    return Feature(first, last - first)
        elif kind == _INT_LIST and stop > start:
            # Packed: one length and then the numbers; or each number under its own tag.
            tag, at = _varint(record, start)
            if tag & 7 == _LENGTH:
                size, at = _varint(record, at)
                if not size:
                    continue
            number, _ = _varint(record, at)
            return Feature(number=number - 2**64 if number >= 2**63 else number)
    return Feature()


def _fields(record: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each field; only length-delimited ones have a content."""
    while at < end:
        tag, at = _varint(record, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = _varint(record, at)
            if at + size > end:
                raise BadExampleError("a field is longer than what holds it")
            yield tag >> 3, at, at + size
            at += size
        elif kind == _VARINT:
            _, at = _varint(record, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise BadExampleError(f"it has a field of the unknown kind {kind}")


def _varint(record: bytes, at: int) -> tuple[int, int]:
    byte = record[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = record[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
        if shift > 63:
            raise BadExampleError("it has a number of more than 64 bits")


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """A tf.Example of single bytes and integer values; equal features give equal bytes."""
    entries = []
    for name in sorted(features):
        value = features[name]
        if isinstance(value, bytes):
            feature = _field(_BYTES_LIST, _field(1, value))
        else:
            feature = _field(_INT_LIST, _field(1, _encode_varint(value % 2**64)))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | _LENGTH) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
