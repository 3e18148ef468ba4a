"""Runs a pickle of PyTorch weights as far as it makes tensors, and no further.

A pickle is a program: plain `pickle.load` runs whatever the file says. Here only three things may
be named in it: an ordered dictionary, a storage, and `_rebuild_tensor_v2`, which views a storage as
a tensor. All else is refused, and nothing is imported at all, so a hostile file can do nothing.
"""

from __future__ import annotations

import math
import pickletools
from typing import Any, BinaryIO, NamedTuple

import numpy as np

# bfloat16 is no numpy type: its numbers are the upper halves of float32.
BFLOAT16 = "bfloat16"
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class DamageError(ValueError):
    """What is wrong with the file, said in brackets."""


class RefusedError(Exception):
    """The rest of a sentence that begins with the file's path."""


class Storage(NamedTuple):
    """A run of `length` numbers, named but not read yet."""

    key: str
    dtype: str
    length: int

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 2 if self.dtype == BFLOAT16 else np.dtype(self.dtype).itemsize


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Name(NamedTuple):
    """A thing a pickle names; it stays a name, and nothing is imported by it."""

    module: str
    name: str


_ORDERED_DICT = _Name("collections", "OrderedDict")
_REBUILD_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_ADMITTED = {_ORDERED_DICT, _REBUILD_TENSOR, *(_Name("torch", name) for name in _DTYPES)}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def unpickle(file: BinaryIO) -> Any:
    """Runs the pickle that begins here as far as it makes numbers, strings, containers, tensors.

    Python's own unpickler is not used: one with a list of what it may import still overflows the
    stack on a tuple nested a million times, and lets a file set attributes of what it imports.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    argument: Any  # of the type that its opcode says
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            values = since_mark() if name == "APPENDS" else [stack.pop()]
            expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            keys = [expect(key, (str, int)) for key in items[::2]]
            expect(stack[-1], dict).update(zip(keys, items[1::2]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_admitted(*argument.split(" ", 1)))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = expect(stack.pop(), tuple)
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":  # torch hangs version numbers on a state dict
            stack.pop()
            expect(stack[-1], dict)
        elif name != "PROTO":
            raise DamageError(f"it uses {name}, which weights do not")
    raise DamageError("it ends too early")


def expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    """`value`, if it is of that kind.

    Raises:
      DamageError: it is of another.
    """
    if not isinstance(value, kind):
        raise DamageError(f"a {type(value).__name__} stands where none can")
    return value


def _admitted(module: str, name: str) -> _Name:
    named = _Name(module, name)
    if named not in _ADMITTED:
        raise RefusedError(
            f"asks for {module}.{name}, which weights do not need; nothing in it was run: save "
            "model.state_dict(), the tensors alone, with torch.save."
        )
    return named


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function == _REBUILD_TENSOR:
        return _rebuild_tensor(*arguments)
    if function == _ORDERED_DICT and not arguments:
        return {}
    raise DamageError("it calls what is no function")


def _storage(pid: Any) -> Storage:
    kind, storage_type, key, _, count = expect(pid, tuple)[:5]
    if kind != "storage" or not isinstance(storage_type, _Name) or storage_type.name not in _DTYPES:
        raise DamageError("it names a storage of no known kind")
    if len(pid) > 5 and pid[5] is not None:
        raise RefusedError(
            "holds a view of another storage, which only very old PyTorch wrote: load it with "
            "torch and save it again with torch.save."
        )
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise DamageError("it names a storage of no known size")
    return Storage(key, _DTYPES[storage_type.name], count)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise DamageError("it holds a tensor of no known shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    # More numbers than the storage has would be repeats: a small file could fill the memory.
    if len(size) != len(stride) or count > storage.length or (count and last >= storage.length):
        raise DamageError("it holds a tensor larger than its storage")
    return Tensor(storage, offset, size, stride)
