"""CRC-32C of many byte strings at once, in numpy: the checksum of TFRecord files.

The checksum of a message is linear over GF(2), so messages are cut into equal blocks whose
checksums are computed side by side, two bytes a step, and joined afterwards. Zero bytes in front
of a message leave the register of a zero-initialised CRC at zero, so blocks are aligned at the
message's end and the first one is padded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Union

import numpy as np

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
