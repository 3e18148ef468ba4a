"""Reads a file of PyTorch weights without PyTorch, and without running anything in it.

A pickle is a program: plain `pickle.load` runs whatever the file says. Here only three things may
be named in it: an ordered dictionary, a storage, and `_rebuild_tensor_v2`, which views a storage as
a tensor. All else is refused, and nothing is imported at all, so a hostile file can do nothing.

Two formats (torch/serialization.py):

| format | what lies in the file |
|---|---|
| legacy, torch below 1.6 | five pickles (magic number, protocol, system, state dict, keys of the storages), then each storage: int64 count, raw numbers |
| zip, torch 1.6 on | `NAME/data.pkl`, the state dict; `NAME/data/KEY`, raw numbers of each storage |
"""  # noqa: E501

from __future__ import annotations

import io
import math
import pathlib
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from longtail_tf.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# bfloat16 is no numpy type: its numbers are the upper halves of float32.
_BFLOAT16 = "bfloat16"
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
# What a damaged pickle raises depends on the byte that is damaged; none of it may reach the user.
_DAMAGES = (
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    OSError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip that is encrypted or compressed in a way zipfile does not know
    RuntimeError,
)


def read_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors that `torch.save(model.state_dict(), path)` wrote.

    A dictionary that holds the tensors under "state_dict" or "model", beside an epoch or the like,
    is read too.

    Args:
      path: a `.pth` or `.pt` file of either format.

    Returns:
      Tensor name -> array, in the order of the file; bfloat16 comes as float32.

    Raises:
      UserError: there is no such file, it is no file of PyTorch weights, it is damaged or cut off,
        or it asks for anything but tensors; nothing in it was run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a .pth file of PyTorch weights.")
    try:
        with open(path, "rb") as file:
            read = _read_zip if file.read(4) == b"PK\x03\x04" else _read_legacy
            file.seek(0)
            return read(file, path.stat().st_size)
    except _RefusedError as refusal:
        raise UserError(f"{path} {refusal}") from None
    except _DAMAGES as error:
        raise UserError(
            f"{path} is damaged or cut off ({_first_line(error)}): fetch it again."
        ) from error


class _DamageError(ValueError):
    """What is wrong with the file, said in brackets."""


class _RefusedError(Exception):
    """The rest of a sentence that begins with the file's path."""


class _Storage(NamedTuple):
    """A run of `length` numbers, named but not read yet."""

    key: str
    dtype: str
    length: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
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


def _unpickle(file: BinaryIO) -> Any:
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
            _expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            keys = [_expect(key, (str, int)) for key in items[::2]]
            _expect(stack[-1], dict).update(zip(keys, items[1::2]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_admitted(*argument.split(" ", 1)))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = _expect(stack.pop(), tuple)
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":  # torch hangs version numbers on a state dict
            stack.pop()
            _expect(stack[-1], dict)
        elif name != "PROTO":
            raise _DamageError(f"it uses {name}, which weights do not")
    raise _DamageError("it ends too early")


def _expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise _DamageError(f"a {type(value).__name__} stands where none can")
    return value


def _admitted(module: str, name: str) -> _Name:
    named = _Name(module, name)
    if named not in _ADMITTED:
        raise _RefusedError(
            f"asks for {module}.{name}, which weights do not need; nothing in it was run: save "
            "model.state_dict(), the tensors alone, with torch.save."
        )
    return named


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function == _REBUILD_TENSOR:
        return _rebuild_tensor(*arguments)
    if function == _ORDERED_DICT and not arguments:
        return {}
    raise _DamageError("it calls what is no function")


def _storage(pid: Any) -> _Storage:
    kind, storage_type, key, _, count = _expect(pid, tuple)[:5]
    if kind != "storage" or not isinstance(storage_type, _Name) or storage_type.name not in _DTYPES:
        raise _DamageError("it names a storage of no known kind")
    if len(pid) > 5 and pid[5] is not None:
        raise _RefusedError(
            "holds a view of another storage, which only very old PyTorch wrote: load it with "
            "torch and save it again with torch.save."
        )
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise _DamageError("it names a storage of no known size")
    return _Storage(key, _DTYPES[storage_type.name], count)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise _DamageError("it holds a tensor of no known shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    # More numbers than the storage has would be repeats: a small file could fill the memory.
    if len(size) != len(stride) or count > storage.length or (count and last >= storage.length):
        raise _DamageError("it holds a tensor larger than its storage")
    return _Tensor(storage, offset, size, stride)


def _read_legacy(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    try:
        magic = _unpickle(file)
    except (*_DAMAGES, _RefusedError):
        magic = None
    if type(magic) is not int or magic != _MAGIC:
        raise _RefusedError("is no file of PyTorch weights: give what torch.save wrote.")
    if _unpickle(file) != _PROTOCOL:
        raise _DamageError("unknown protocol")
    if not _unpickle(file).get("little_endian"):
        raise _RefusedError("was written on a big-endian machine: save it again on another.")
    tensors = _tensors_of(_unpickle(file))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers: dict[str, np.ndarray] = {}
    for key in _unpickle(file):
        count = int.from_bytes(_exactly(file, 8, file_size), "little")
        storage = storages.get(_expect(key, str))
        if storage is None:
            raise _DamageError("it holds numbers that no tensor uses")
        if count != storage.length:
            raise _DamageError("a storage has another size than its tensors say")
        numbers[key] = _numbers(_exactly(file, count * storage.itemsize, file_size), storage)
    return _views(tensors, numbers)


def _read_zip(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise _RefusedError(
                "is a zip file, but holds no PyTorch weights (no data.pkl): give what torch.save "
                "wrote."
            )
        folder = found[0][: -len("data.pkl")]

        def content(name: str) -> bytes:
            # torch never compresses, so whatever a member unpacks to was in the file.
            if members[name].compress_type != zipfile.ZIP_STORED:
                raise _DamageError("a part of it is compressed")
            return archive.read(name)

        if f"{folder}byteorder" in members and content(f"{folder}byteorder") != b"little":
            raise _RefusedError("was written on a big-endian machine: save it again on another.")
        tensors = _tensors_of(_unpickle(io.BytesIO(content(found[0]))))
        numbers: dict[str, np.ndarray] = {}
        left = file_size
        for storage in dict.fromkeys(tensor.storage for tensor in tensors.values()):
            name = f"{folder}data/{storage.key}"
            size = storage.length * storage.itemsize
            left -= size
            if name not in members or members[name].file_size != size or left < 0:
                raise _DamageError("numbers of a tensor are missing")
            numbers[storage.key] = _numbers(content(name), storage)
    return _views(tensors, numbers)


def _tensors_of(content: Any) -> dict[str, _Tensor]:
    """The tensors by name; a training's other numbers beside them are left out."""
    if isinstance(content, dict):
        for inside in ("state_dict", "model"):
            if isinstance(content.get(inside), dict):
                content = content[inside]
                break
        tensors = {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, _Tensor)
        }
        if tensors:
            return tensors
    raise _RefusedError("holds no named tensors: save model.state_dict() with torch.save.")


def _views(
    tensors: Mapping[str, _Tensor], numbers: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Copies, each contiguous, so that nothing holds on to a storage."""
    arrays = {}
    for name, (storage, offset, size, stride) in tensors.items():
        if storage.key not in numbers or len(numbers[storage.key]) != storage.length:
            raise _DamageError(f"the numbers of {name} are missing")
        flat = numbers[storage.key][offset:]
        steps = [step * flat.itemsize for step in stride]
        arrays[name] = np.lib.stride_tricks.as_strided(flat, size, steps, writeable=False).copy()
    return arrays


def _numbers(raw: bytes, storage: _Storage) -> np.ndarray:
    if storage.dtype == _BFLOAT16:
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, storage.dtype)


def _exactly(file: BinaryIO, size: int, file_size: int) -> bytes:
    """`size` bytes; asked of the file only where it can have so many."""
    raw = file.read(size) if size <= file_size else b""
    if len(raw) != size:
        raise _DamageError("it ends too early")
    return raw


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].strip("'\"") if str(error) else type(error).__name__
