"""TFRecord files: where the records lie, whether they are whole, and how to write them.

A record is its length (8 bytes), the masked CRC-32C of those (4), the data, and its CRC (4).
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Union

import numpy as np

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


_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_MASK_DELTA = 0xA282EAD8
# Bytes in a block: many small ones give the vector units enough to do, few large ones join fast.
_SMALL_BLOCK, _LARGE_BLOCK = 64, 512
Buffer = Union[bytes, memoryview, np.ndarray]


def crc32c(messages: Sequence[Buffer]) -> np.ndarray:
    """The CRC-32C of each message, uint32 [len(messages)].

    A call costs about 0.1 ms and then 2 ns a byte, so hand over some megabytes at a time.
    """
    lengths = np.fromiter((len(message) for message in messages), np.int64, len(messages))
    size = _SMALL_BLOCK if lengths.sum() < _SMALL_BLOCK * 8192 else _LARGE_BLOCK
    num_blocks = -(-lengths // size)
    ends = np.cumsum(num_blocks) * size
    padded = np.zeros(int(num_blocks.sum()) * size, np.uint8)
    for message, end, length in zip(messages, ends.tolist(), lengths.tolist()):
        padded[end - length : end] = np.frombuffer(message, np.uint8)
        # The standard's initial value of all ones is the same as inverting the first 32 bits.
        padded[end - length : end - length + min(4, length)] ^= 0xFF
    registers = _block_registers(padded, size)
    crcs = _join(registers, num_blocks, size)
    for row in np.flatnonzero(lengths < 4):
        crcs[row] = _short(bytes(messages[row])) ^ 0xFFFFFFFF
    return ~crcs


def masked_crc32c(messages: Sequence[Buffer]) -> np.ndarray:
    """The masked checksum that TFRecord files store, uint32 [len(messages)]."""
    crcs = crc32c(messages)
    return ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + np.uint32(_MASK_DELTA)


def _block_registers(padded: np.ndarray, size: int) -> np.ndarray:
    """The zero-initialised CRC register after each block, uint32 [blocks]."""
    table = _table16()
    words = np.ascontiguousarray(padded.view("<u2").reshape(-1, size // 2).T)
    register = np.zeros(words.shape[1], np.uint32)
    low = np.empty(len(register), np.intp)
    looked_up = np.empty_like(register)
    for column in words:
        np.bitwise_xor(register, column, out=register)
        np.bitwise_and(register, 0xFFFF, out=low)
        np.take(table, low, out=looked_up, mode="wrap")  # "raise" would buffer its output
        np.right_shift(register, 16, out=register)
        np.bitwise_xor(register, looked_up, out=register)
    return register


def _join(registers: np.ndarray, num_blocks: np.ndarray, size: int) -> np.ndarray:
    """One register a message from the registers of its blocks, joined two by two."""
    while len(num_blocks) and num_blocks.max() > 1:
        pairs = (num_blocks + 1) // 2
        # An odd message gets a block of zeros in front, whose register is zero.
        padded = np.zeros(int(pairs.sum()) * 2, np.uint32)
        shifts = np.cumsum(2 * pairs) - np.cumsum(num_blocks)
        padded[np.arange(len(registers)) + np.repeat(shifts, num_blocks)] = registers
        left, right = padded[0::2], padded[1::2]
        tables = _shift_tables(size)
        registers = right ^ tables[0][left & 0xFF]
        for byte in range(1, 4):
            registers ^= tables[byte][(left >> np.uint32(8 * byte)) & 0xFF]
        num_blocks, size = pairs, size * 2
    result = np.zeros(len(num_blocks), np.uint32)
    result[num_blocks > 0] = registers
    return result


def _short(message: bytes) -> int:
    register = 0xFFFFFFFF
    table = _table8()
    for byte in message:
        register = int(table[(register ^ byte) & 0xFF]) ^ (register >> 8)
    return register ^ 0xFFFFFFFF


@functools.cache
def _table8() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _table16() -> np.ndarray:
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        table = _table8()[table & 0xFF] ^ (table >> 8)
    return table


@functools.cache
def _shift_tables(num_bytes: int) -> np.ndarray:
    """What `num_bytes` zero bytes make of each byte of a register, uint32 [4, 256]."""
    if num_bytes > 1:
        half = _shift_tables(num_bytes // 2)
        registers = _shift_tables(num_bytes - num_bytes // 2)
        return np.bitwise_xor.reduce(
            [half[byte][(registers >> np.uint32(8 * byte)) & 0xFF] for byte in range(4)]
        )
    registers = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, np.uint32)[:, None]
    return _table8()[registers & 0xFF] ^ (registers >> np.uint32(8))
