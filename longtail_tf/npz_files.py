"""Arrays of an .npz file, read only where the file tells the truth about them.

numpy takes memory for whatever shape a header announces, and unpacks whatever a zip archive holds.
Here what the header says, what the archive says and what is on the disk are held against each other
before anything is read, and nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import Path, named, open_file

# No array of images or numbers packs so well; a zip bomb does.
_LARGE_BYTES, _MOST_PACKED = 256 << 20, 200
_PIECE_BYTES = 16 << 20
_ENCRYPTED = 0x1
_ENDING = ".npy"
_SINGLE = np.lib.format.MAGIC_PREFIX  # of a .npy file
_read_magic: Callable[..., Any] = np.lib.format.read_magic  # numpy leaves these untyped
_READERS: Mapping[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Member(NamedTuple):
    """An array that is about to be read: its file from the first value on, and what it holds."""

    file: IO[bytes]
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an .npz file.

    Raises:
      UserError: it is no .npz file.
      OSError: it cannot be read.
    """
    with _archive(path) as archive:
        return _names(archive)


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Args:
      path: the file.
      names: those that are wanted, as far as they are there; None takes all.

    Raises:
      UserError: it is no .npz file, or an array is not what its header says.
      OSError: it cannot be read.
    """
    arrays = {}
    with _archive(path) as archive:
        wanted = [name for name in _names(archive) if names is None or name in names]
        _check_memory(path, sum(archive.getinfo(name + _ENDING).file_size for name in wanted))
        for name in wanted:
            with _member(path, archive, name) as member:
                arrays[name] = _whole(path, name, member)
    return arrays


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of an .npz file; the others stay on disk.

    Raises:
      UserError: it is no .npz file, has no such array, or the array is not what its header says.
      OSError: it cannot be read.
    """
    found = read_arrays(path, (name,))
    if name not in found:
        there = ", ".join(array_names(path)[:20]) or "none at all"
        raise UserError(f"{os.fspath(path)} has no array {name!r}, only {there}.")
    return found[name]


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name[: -len(_ENDING)] for name in archive.namelist() if name.endswith(_ENDING)]


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_file(path) as file:
        if file.read(len(_SINGLE)) == _SINGLE:
            raise _damaged(path, "it holds a single array, not several by name")
        with _reading(path):
            archive = zipfile.ZipFile(file)
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise _damaged(path, "an array comes twice")
        with archive:
            try:
                yield archive
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:  # where the data is read
                raise _damaged(path, error) from error


@contextlib.contextmanager
def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[Member]:
    info = archive.getinfo(name + _ENDING)
    where = f"its array {name!r}"
    if info.flag_bits & _ENCRYPTED:
        raise _damaged(path, f"{where} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(path, f"{where} is packed in an unknown way ({info.compress_type})")
    if info.file_size > _LARGE_BYTES and info.file_size > _MOST_PACKED * info.compress_size:
        raise _damaged(
            path, f"{where} would unpack {info.compress_size:,} bytes to {info.file_size:,}"
        )
    with _reading(path):
        file = archive.open(info)
    with file:
        with _reading(path):
            version = _read_magic(file)
            if version not in _READERS:
                raise _damaged(path, f"{where} is of .npy version {version}")
            shape, is_fortran, dtype = _READERS[version](file)
        if dtype.hasobject:
            raise _damaged(path, f"{where} holds Python objects, which are never read")
        says = math.prod(shape) * dtype.itemsize
        has = info.file_size - file.tell()
        if says != has or any(size < 0 for size in shape):
            raise _damaged(
                path, f"{where} says it is {dtype} {list(shape)}, {says:,} bytes, and has {has:,}"
            )
        yield Member(file, shape, is_fortran, dtype)


def _whole(path: Path, name: str, member: Member) -> np.ndarray:
    if not math.prod(member.shape) * member.dtype.itemsize:
        return np.zeros(member.shape, member.dtype)
    array = np.empty(math.prod(member.shape), member.dtype)
    raw = array.view(np.uint8)
    for begin in range(0, len(raw), _PIECE_BYTES):
        piece = member.file.read(min(_PIECE_BYTES, len(raw) - begin))
        if len(piece) != min(_PIECE_BYTES, len(raw) - begin):
            raise _damaged(path, f"its array {name!r} ends after {begin + len(piece):,} bytes")
        raw[begin : begin + len(piece)] = np.frombuffer(piece, np.uint8)
    with _reading(path):  # numpy has a limit to the axes
        array = array.reshape(member.shape, order="F" if member.is_fortran else "C")
    return array


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tells what a damaged archive or header makes zipfile and numpy raise, a dozen kinds."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a place outside the file
            raise _damaged(path, error.strerror or error) from error
        with named(path):
            raise
    except Exception as error:
        raise _damaged(path, " ".join(str(error).split())[:300] or type(error).__name__) from error


def _check_memory(path: Path, wanted_bytes: int) -> None:
    """Refuses arrays that this machine cannot hold, before it begins to swap or to kill."""
    available = _available_bytes()
    if available is not None and wanted_bytes > available:
        raise UserError(
            f"{os.fspath(path)} holds arrays of {wanted_bytes:,} bytes and {available:,} are free "
            "on this machine: convert the images to files or shards."
        )


def _available_bytes() -> int | None:
    """Memory that can be had; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/meminfo", encoding="ascii") as file:
            [line] = [line for line in file if line.startswith("MemAvailable:")]
        return int(line.split()[1]) * 1024
    return None


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(
        f"{os.fspath(path)} is damaged or cannot be read as an .npz file of plain arrays "
        f"({reason}): restore it from a copy, or save it again with np.savez."
    )
