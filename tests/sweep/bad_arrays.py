"""Ways in which an .npz file lies, or holds what nobody can use."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

BOMB_BYTES = 3 << 30
_BLOCK = 16 << 20


def members(path: pathlib.Path) -> dict[str, bytes]:
    """The raw .npy members of an .npz file by name, without the ending."""
    with zipfile.ZipFile(path) as archive:
        return {name[:-4]: archive.read(name) for name in archive.namelist()}


def write_members(path: pathlib.Path, raw: Mapping[str, bytes]) -> None:
    """Writes raw .npy members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in raw.items():
            archive.writestr(f"{name}.npy", data)


def header(descr: str, shape: str, *, order: bool = False) -> bytes:
    """A .npy header that says what it likes, without data."""
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"
    return _with_header(text.encode())


def _with_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


# What a member may hold in place of its array.
MEMBERS: Mapping[str, bytes] = {
    "of 27 TiB": header("|u1", "(10000000, 1000, 1000, 3)"),
    "of 2^70 rows": header("<i8", f"({2**70},)"),
    "of a product beyond 2^64": header("<f4", f"({2**40}, {2**40})"),
    "of -1 rows": header("<i8", "(-1,)"),
    "of 20 GB of short rows": header("|u1", "(20000000000,)") + b"short",
    "empty": b"",
    "no .npy": b"this is text and no array",
    "of version 9": b"\x93NUMPY\x09\x00" + header("|u1", "(1,)")[8:] + b"x",
    "cut in its header": header("|u1", "(1,)")[:20],
    "with a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
    "with a header of code": _with_header(b"__import__('os').abort()\n"),
    "with a header of brackets": _with_header(b"(" * 60000),
    "of objects": _array(np.array([{"a": 1}, None], object)),
    "of floats": _array(np.array([0.5, np.nan])),
    "of complex numbers": _array(np.array([1j])),
    "of dates": _array(np.array(["2020-01-01"], "datetime64[D]")),
    "of records": _array(np.zeros(3, [("a", "<i4"), ("b", "<f4")])),
    "of texts": _array(np.array(["a", "b"])),
    "of empty texts": header("<U0", "(4,)"),
    "of bytes without length": header("|S0", "(4,)"),
    "a scalar": _array(np.array(3)),
    "of no rows": _array(np.zeros((0,), np.int64)),
    "of 40 axes": header("|u1", "(" + "1," * 40 + ")") + b"x",
    "of huge numbers": _array(np.full(96, 2**63, np.uint64)),
    "of a billion": _array(np.full(96, 10**9, np.int64)),
    "of truths": _array(np.ones(96, bool)),
    "of big-endian floats": _array(np.ones((4, 4), ">f8")),
}


def _patched(path: pathlib.Path, name: str, *, local: int, central: int, value: int) -> None:
    """Writes a 16-bit field of a member's two zip headers."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        start = archive.start_dir
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H", raw, info.header_offset + local, value)
    at = raw.find(info.filename.encode(), start) - 46
    struct.pack_into("<H", raw, at + central, value)
    path.write_bytes(raw)


def unknown_compression(path: pathlib.Path, name: str) -> None:
    """A member that is compressed in a way nobody knows."""
    _patched(path, name, local=8, central=10, value=97)


def lzma_compression(path: pathlib.Path, name: str) -> None:
    """A member that says it is compressed by LZMA and is not."""
    _patched(path, name, local=8, central=10, value=14)


def encrypted(path: pathlib.Path, name: str) -> None:
    """A member with a password."""
    _patched(path, name, local=6, central=8, value=1)


def wrong_checksum(path: pathlib.Path, name: str) -> None:
    """A member one bit of which has turned."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
    raw = bytearray(path.read_bytes())
    raw[info.header_offset + 30 + len(info.filename) + info.compress_size - 1] ^= 1
    path.write_bytes(raw)


def twice(path: pathlib.Path, name: str) -> None:
    """A member that comes twice."""
    raw = members(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(zipfile.ZipInfo(f"{name}.npy"), raw[name][:-1] + b"?")


def bomb(path: pathlib.Path, name: str) -> None:
    """A member of a few MB on disk and 3 GB in memory."""
    raw = members(path)
    del raw[name]
    write_members(path, raw)
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    block = bytes(_BLOCK)
    with zipfile.ZipFile(path, "a") as archive:
        with archive.open(info, "w", force_zip64=True) as file:
            file.write(header("|u1", f"({BOMB_BYTES},)"))
            for _ in range(BOMB_BYTES // _BLOCK):
                file.write(block)


ARCHIVES: Mapping[str, Callable[[pathlib.Path, str], None]] = {
    "of unknown compression": unknown_compression,
    "of false LZMA": lzma_compression,
    "encrypted": encrypted,
    "with a wrong checksum": wrong_checksum,
    "twice": twice,
}


def single_array(path: pathlib.Path) -> None:
    """A .npy file under the name of an .npz file."""
    with open(path, "wb") as file:
        np.save(file, np.zeros((4, 8, 8), np.uint8))


def pickle_file(path: pathlib.Path) -> None:
    """A pickle, which must not be run."""
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


def no_members(path: pathlib.Path) -> None:
    """A zip archive of nothing."""
    with zipfile.ZipFile(path, "w"):
        pass


def foreign_zip(path: pathlib.Path) -> None:
    """A zip archive of other things."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escape.txt", "x")
        archive.writestr("images/", "")


FILES: Mapping[str, Callable[[pathlib.Path], None]] = {
    "a single array": single_array,
    "a pickle": pickle_file,
    "an empty archive": no_members,
    "an archive of other things": foreign_zip,
}


def cached_bomb(cache: pathlib.Path, source: pathlib.Path, name: str) -> pathlib.Path:
    """A bomb made from `source`, kept in `cache`: making it takes seconds."""
    made = cache / f"bomb_{source.stem}_{name}.npz"
    if not made.exists():
        beside = made.with_suffix(f".{os.getpid()}")
        beside.write_bytes(source.read_bytes())
        bomb(beside, name)
        os.replace(beside, made)
    return made
