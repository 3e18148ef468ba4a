"""Reads a file of PyTorch weights without PyTorch, and without running anything in it.

Two formats (torch/serialization.py), in both of which `torch_pickle` reads the pickles:

| format | what lies in the file |
|---|---|
| legacy, torch below 1.6 | five pickles (magic number, protocol, system, state dict, keys of the storages), then each storage: int64 count, raw numbers |
| zip, torch 1.6 on | `NAME/data.pkl`, the state dict; `NAME/data/KEY`, raw numbers of each storage |
"""  # noqa: E501

from __future__ import annotations

import io
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.models.torch_pickle import (
    BFLOAT16,
    DamageError,
    RefusedError,
    Storage,
    Tensor,
    expect,
    unpickle,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
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
    except RefusedError as refusal:
        raise UserError(f"{path} {refusal}") from None
    except _DAMAGES as error:
        raise UserError(
            f"{path} is damaged or cut off ({_first_line(error)}): fetch it again."
        ) from error


def _read_legacy(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    try:
        magic = unpickle(file)
    except (*_DAMAGES, RefusedError):
        magic = None
    if type(magic) is not int or magic != _MAGIC:
        raise RefusedError("is no file of PyTorch weights: give what torch.save wrote.")
    if unpickle(file) != _PROTOCOL:
        raise DamageError("unknown protocol")
    if not unpickle(file).get("little_endian"):
        raise RefusedError("was written on a big-endian machine: save it again on another.")
    tensors = _tensors_of(unpickle(file))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers: dict[str, np.ndarray] = {}
    for key in unpickle(file):
        count = int.from_bytes(_exactly(file, 8, file_size), "little")
        storage = storages.get(expect(key, str))
        if storage is None:
            raise DamageError("it holds numbers that no tensor uses")
        if count != storage.length:
            raise DamageError("a storage has another size than its tensors say")
        numbers[key] = _numbers(_exactly(file, count * storage.itemsize, file_size), storage)
    return _views(tensors, numbers)


def _read_zip(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise RefusedError(
                "is a zip file, but holds no PyTorch weights (no data.pkl): give what torch.save "
                "wrote."
            )
        folder = found[0][: -len("data.pkl")]

        def content(name: str) -> bytes:
            # torch never compresses, so whatever a member unpacks to was in the file.
            if members[name].compress_type != zipfile.ZIP_STORED:
                raise DamageError("a part of it is compressed")
            return archive.read(name)

        if f"{folder}byteorder" in members and content(f"{folder}byteorder") != b"little":
            raise RefusedError("was written on a big-endian machine: save it again on another.")
        tensors = _tensors_of(unpickle(io.BytesIO(content(found[0]))))
        numbers: dict[str, np.ndarray] = {}
        left = file_size
        for storage in dict.fromkeys(tensor.storage for tensor in tensors.values()):
            name = f"{folder}data/{storage.key}"
            size = storage.length * storage.itemsize
            left -= size
            if name not in members or members[name].file_size != size or left < 0:
                raise DamageError("numbers of a tensor are missing")
            numbers[storage.key] = _numbers(content(name), storage)
    return _views(tensors, numbers)


def _tensors_of(content: Any) -> dict[str, Tensor]:
    """The tensors by name; a training's other numbers beside them are left out."""
    if isinstance(content, dict):
        for inside in ("state_dict", "model"):
            if isinstance(content.get(inside), dict):
                content = content[inside]
                break
        tensors = {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if tensors:
            return tensors
    raise RefusedError("holds no named tensors: save model.state_dict() with torch.save.")


def _views(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Copies, each contiguous, so that nothing holds on to a storage."""
    arrays = {}
    for name, (storage, offset, size, stride) in tensors.items():
        if storage.key not in numbers or len(numbers[storage.key]) != storage.length:
            raise DamageError(f"the numbers of {name} are missing")
        flat = numbers[storage.key][offset:]
        steps = [step * flat.itemsize for step in stride]
        arrays[name] = np.lib.stride_tricks.as_strided(flat, size, steps, writeable=False).copy()
    return arrays


def _numbers(raw: bytes, storage: Storage) -> np.ndarray:
    if storage.dtype == BFLOAT16:
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, storage.dtype)


def _exactly(file: BinaryIO, size: int, file_size: int) -> bytes:
    """`size` bytes; asked of the file only where it can have so many."""
    raw = file.read(size) if size <= file_size else b""
    if len(raw) != size:
        raise DamageError("it ends too early")
    return raw


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].strip("'\"") if str(error) else type(error).__name__
