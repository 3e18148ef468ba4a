"""TFRecord files: where the records lie, whether they are whole, and how to write them.

A record is its length (8 bytes), the masked CRC-32C of those (4), the data, and its CRC (4).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence

import google_crc32c

from longtail_tf.errors import UserError

HEADER_BYTES, FOOTER_BYTES = 12, 4
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """The checksum that TFRecord files store: CRC-32C, rotated and shifted by a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(path: str) -> Iterator[tuple[int, bytes, int]]:
    """(offset of the data, data, stored CRC) of each record, after its checksums are verified.

    Raises:
      UserError: the file is cut, damaged, compressed, or no TFRecord file; with the offset.
    """
    size = os.path.getsize(path)
    if not size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == b"\x1f\x8b":
            raise UserError(
                f"{path} is compressed with gzip, so its records cannot be read at random; "
                "decompress it with gunzip, or write it again without compression"
            )
        at = 0
        while at < size:
            if size - at < HEADER_BYTES + FOOTER_BYTES:
                raise UserError(_cut(path, at, HEADER_BYTES + FOOTER_BYTES, size - at))
            length, crc_of_length = struct.unpack_from("<QI", data, at)
            # The length first: a damaged one would be reported as a cut file.
            if masked_crc32c(data[at : at + 8]) != crc_of_length:
                raise UserError(_damaged(path, at, "length"))
            begin, end = at + HEADER_BYTES, at + HEADER_BYTES + length + FOOTER_BYTES
            if end > size:
                raise UserError(_cut(path, at, end - at, size - at))
            record = data[begin : end - FOOTER_BYTES]
            (crc,) = struct.unpack_from("<I", data, end - FOOTER_BYTES)
            if masked_crc32c(record) != crc:
                raise UserError(_damaged(path, at, "data"))
            yield begin, record, crc
            at = end


def _cut(path: str, at: int, needed: int, left: int) -> str:
    return (
        f"{path} is cut in the middle: the record at byte {at:,} needs {needed:,} bytes and only "
        f"{left:,} are left; copy or write the file again"
    )


def _damaged(path: str, at: int, what: str) -> str:
    if at == 0 and what == "length":
        return (
            f"{path} is no TFRecord file, or its first bytes are damaged: the checksum of the "
            "record at byte 0 is wrong; give a glob that matches TFRecord files only"
        )
    return (
        f"{path} is damaged: the checksum of the {what} of the record at byte {at:,} is wrong; "
        "copy or write the file again"
    )


def frame_records(records: Sequence[bytes]) -> bytes:
    """The bytes of a TFRecord file, or a part of one, that holds `records`."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", masked_crc32c(length))]
        parts += [record, struct.pack("<I", masked_crc32c(record))]
    return b"".join(parts)
