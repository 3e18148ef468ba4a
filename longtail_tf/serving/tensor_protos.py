"""numpy arrays from and to TensorProto, by TensorFlow Serving's rules, without TensorFlow.

Answers use the typed fields (`float_val`, `string_val`, ...), as the real server does: a client
that reads `.float_val` sees nothing in `tensor_content`. Both forms are accepted on input. The
functions take any TensorProto class: the official one or the client's own (`wire`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# A few bytes can ask for a huge tensor: a shape and one value mean "repeat the value". Payloads
# that were really sent are bounded by the message limit; repeats are bounded here.
MAX_REPEATED_BYTES = 64 * 2**20
MAX_RANK = 32  # numpy's limit; TensorFlow's own is 254, its kernels stop at 8

STRING = 7
BFLOAT16 = 14
# TensorFlow's DataType number -> (numpy dtype, typed field of TensorProto)
_TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    4: ("|u1", "int_val"),
    5: ("<i2", "int_val"),
    6: ("|i1", "int_val"),
    STRING: ("O", "string_val"),
    8: ("<c8", "scomplex_val"),
    9: ("<i8", "int64_val"),
    10: ("|b1", "bool_val"),
    BFLOAT16: ("<u2", "half_val"),
    17: ("<u2", "int_val"),
    18: ("<c16", "dcomplex_val"),
    19: ("<f2", "half_val"),
    22: ("<u4", "uint32_val"),
    23: ("<u8", "uint64_val"),
}
_NUMBERS = {np.dtype(name): number for number, (name, _) in _TYPES.items() if number != BFLOAT16}
_NUMBERS[np.dtype("<u2")] = 17
# The names TensorFlow's own messages use.
_NAMES = {1: "float", 2: "double", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string"}
_NAMES.update({8: "complex64", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16"})
_NAMES.update({18: "complex128", 19: "half", 22: "uint32", 23: "uint64"})


class TensorProtoError(ValueError):
    """The proto does not describe a tensor; the message says what does not fit."""


def dtype_name(number: int) -> str:
    """TensorFlow's name of a DataType number, as in its messages: "float", "string", ..."""
    return _NAMES.get(number, f"type {number}")


def to_array(proto: Any) -> np.ndarray:
    """The tensor in `proto`; strings come back as an object array of bytes.

    Args:
      proto: a TensorProto with `tensor_content` or a typed field. Fewer values than the shape has
        elements repeat the last one; no value at all means zeros.

    Raises:
      TensorProtoError: unknown dtype, bad shape, or content that does not fill the shape.
    """
    number = int(proto.dtype)
    if number not in _TYPES:
        raise TensorProtoError(f"its dtype is {number or 'not set'}")
    shape, size = _shape(proto)
    name, field = _TYPES[number]
    if proto.tensor_content:
        return _from_content(proto.tensor_content, number, shape, size)
    values = getattr(proto, field)
    parts = 2 if number in (8, 18) else 1
    if len(values) % parts:
        raise TensorProtoError(f"{field} holds an odd number of values")
    count = len(values) // parts
    item_bytes = np.dtype(name).itemsize
    if size > count and size * item_bytes > MAX_REPEATED_BYTES:
        raise TensorProtoError(
            f"its shape {list(shape)} asks for {size} values and {count} were sent"
        )
    array = _from_values(values, number, name, min(size, count))
    if size > count:
        filled = np.empty(size, array.dtype)
        filled[:count] = array
        filled[count:] = array[-1] if count else (b"" if number == STRING else 0)
        array = filled
    return _typed(array, number).reshape(shape)


def fill(proto: Any, array: np.ndarray) -> None:
    """Writes `array` into the empty TensorProto `proto`, in its typed field.

    Raises:
      TensorProtoError: numpy dtype that no served signature can have.
    """
    number = _NUMBERS.get(array.dtype)
    if number is None and array.dtype.name == "bfloat16":
        number = BFLOAT16
    if number is None:
        raise TensorProtoError(f"numpy dtype {array.dtype} has no place in a TensorProto")
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if not array.shape:
        proto.tensor_shape.SetInParent()
    field = getattr(proto, _TYPES[number][1])
    if number in (BFLOAT16, 19):
        array = array.view(np.uint16)
    elif number in (8, 18):
        array = np.ascontiguousarray(array).view(array.real.dtype)
    field.extend(array.ravel().tolist())


def _shape(proto: Any) -> tuple[tuple[int, ...], int]:
    """Dimensions and number of elements."""
    if proto.tensor_shape.unknown_rank:
        raise TensorProtoError("its shape is unknown")
    shape = tuple(int(dim.size) for dim in proto.tensor_shape.dim)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise TensorProtoError(f"its shape {list(shape[:8])} is not possible")
    # A zero hides nothing: numpy multiplies the other dimensions all the same
    if math.prod(max(1, size) for size in shape) >= 2**59:
        raise TensorProtoError(f"its shape {list(shape[:8])} has too many elements")
    return shape, math.prod(shape)


def _from_content(raw: bytes, number: int, shape: tuple[int, ...], size: int) -> np.ndarray:
    if number == STRING:
        array = np.empty(size, object)
        array[:] = _strings(raw, size)
        return array.reshape(shape)
    dtype = np.dtype(_TYPES[number][0])
    if len(raw) != size * dtype.itemsize:
        raise TensorProtoError(
            f"its tensor_content has {len(raw)} bytes and its shape {list(shape)} of "
            f"{dtype_name(number)} needs {size * dtype.itemsize}"
        )
    return _typed(np.frombuffer(raw, dtype), number).reshape(shape)


def _strings(raw: bytes, size: int) -> list[bytes]:
    """Strings as TensorFlow packs them: all lengths (varints), then all bytes."""
    if size > len(raw):
        raise TensorProtoError(f"its tensor_content is too short for {size} strings")
    lengths, position = [], 0
    for _ in range(size):
        length = shift = 0
        while True:
            if position >= len(raw) or shift > 63:
                raise TensorProtoError("its tensor_content ends inside a string length")
            byte = raw[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(raw):
        raise TensorProtoError("its tensor_content does not hold the strings it announces")
    strings = []
    for length in lengths:
        strings.append(raw[position : position + length])
        position += length
    return strings


def _from_values(values: Any, number: int, name: str, count: int) -> np.ndarray:
    if number == STRING:
        array = np.empty(count, object)
        array[:] = values[:count]
        return array
    if number in (8, 18):
        part = np.dtype("<f4" if number == 8 else "<f8")
        return np.array(values[: 2 * count], part).view(name)
    # Integers arrive as int32 and are narrowed as C++ does, by wrapping; numpy would refuse.
    wide = {"int_val": np.int32, "half_val": np.int32}.get(_TYPES[number][1])
    if wide is None:
        return np.array(values[:count], name)
    narrow = np.array(values[:count], wide)
    if number == 19:
        return narrow.astype(np.uint16).view(np.float16)
    return narrow.astype(name)


def _typed(array: np.ndarray, number: int) -> np.ndarray:
    """bfloat16 travels as its bits; everything else already has its dtype."""
    if number != BFLOAT16:
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)
