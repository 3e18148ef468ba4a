"""TFRecord files: where the records lie, whether they are whole, and how to write them.

A record is its length (8 bytes), the masked CRC-32C of those (4), the data, and its CRC (4).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from longtail_tf.datasets.crc32c import masked_crc32c
from longtail_tf.errors import UserError

HEADER_BYTES, FOOTER_BYTES = 12, 4
# Checksums are taken of this many bytes together.
_BATCH_BYTES = 8 << 20


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
            offsets, records, crcs = [], [], []
            headers, header_crcs, pending = [], [], 0
            while at < size and pending < _BATCH_BYTES:
                length, end = _record_end(path, data, at, size)
                headers.append(data[at : at + 8])
                header_crcs.append(struct.unpack_from("<I", data, at + 8)[0])
                records.append(data[at + HEADER_BYTES : end - FOOTER_BYTES])
                crcs.append(struct.unpack_from("<I", data, end - FOOTER_BYTES)[0])
                offsets.append(at + HEADER_BYTES)
                pending += length
                at = end
            _verify(path, offsets, headers, header_crcs, "length")
            _verify(path, offsets, records, crcs, "data")
            yield from zip(offsets, records, crcs)


def _record_end(path: str, data: mmap.mmap, at: int, size: int) -> tuple[int, int]:
    """(length, end) of the record at `at`, once it is known to lie inside the file."""
    if size - at < HEADER_BYTES + FOOTER_BYTES:
        raise UserError(_cut(path, at, HEADER_BYTES + FOOTER_BYTES, size - at))
    length = struct.unpack_from("<Q", data, at)[0]
    end = at + HEADER_BYTES + length + FOOTER_BYTES
    if end > size:
        # A damaged length would be told as a cut file, which sends the user the wrong way.
        _verify(
            path,
            [at + HEADER_BYTES],
            [data[at : at + 8]],
            [struct.unpack_from("<I", data, at + 8)[0]],
            "length",
        )
        raise UserError(_cut(path, at, end - at, size - at))
    return length, end


def _cut(path: str, at: int, needed: int, left: int) -> str:
    return (
        f"{path} is cut in the middle: the record at byte {at:,} needs {needed:,} bytes and only "
        f"{left:,} are left; copy or write the file again"
    )


def _verify(
    path: str, offsets: Sequence[int], parts: Sequence[bytes], crcs: Sequence[int], what: str
) -> None:
    wrong = np.flatnonzero(masked_crc32c(parts) != np.asarray(crcs, np.uint32))
    if not len(wrong):
        return
    at = offsets[int(wrong[0])] - HEADER_BYTES
    if at == 0 and what == "length":
        raise UserError(
            f"{path} is no TFRecord file, or its first bytes are damaged: the checksum of the "
            "record at byte 0 is wrong; give a glob that matches TFRecord files only"
        )
    raise UserError(
        f"{path} is damaged: the checksum of the {what} of the record at byte {at:,} is wrong; "
        "copy or write the file again"
    )


def frame_records(records: Sequence[bytes]) -> bytes:
    """The bytes of a TFRecord file, or a part of one, that holds `records`."""
    headers = [struct.pack("<Q", len(record)) for record in records]
    parts = []
    crcs = zip(masked_crc32c(headers).tolist(), masked_crc32c(records).tolist())
    for header, record, (header_crc, crc) in zip(headers, records, crcs):
        parts += [header, struct.pack("<I", header_crc), record, struct.pack("<I", crc)]
    return b"".join(parts)
