"""The one place that reads and writes whole files named by a user or kept in a run folder.

Writing: beside the place, forced to the disk, then renamed, so that neither a reader nor a power
cut ever finds half a file. A link is followed and stays; what is no regular file (a device, a pipe)
is written into and stays what it is. What a kill leaves beside (`.NAME.xxxxxxxxxxxx.part`) goes
when the next process writes into the folder.

Reading: never waits for a pipe, never reads a device, and looks at the size first; `text_files`
reads text.

An `OSError` carries the path that was named; entry points turn it into a sentence.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Union

from longtail_tf.errors import UserError

Path = Union[str, "os.PathLike[str]"]
PARTIAL = ".part"
MOST_IMAGE_BYTES = 1 << 30  # a file beyond is no image, whatever its name says
_LITTER = re.compile(r"\..+\.([0-9a-f]{4})[0-9a-f]{8}\.part\Z", re.DOTALL)
_DAY_S = 86_400.0
_LONGEST_NAME_BYTES = 255
_TOLD_BY_LIBRARIES = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ENOENT,
)  # fmt: skip
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFileError(OSError):
    """A folder, pipe, socket or device where a file was expected."""


def write_atomically(path: Path, data: Union[bytes, str]) -> None:
    """Writes a whole file, or leaves the one that is there.

    Args:
      path: the file; folders above it are made. A link is followed. A device or a pipe with a
        reader is written into.
      data: its content; text becomes UTF-8, what cannot be encoded (a file name that is no text)
        its bytes or an escape.

    Raises:
      OSError: with `path` as its file name; the file is as it was before.
    """
    raw = _encoded(data) if isinstance(data, str) else data
    with replacing(path) as file:
        file.write(raw)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes the place of `path` when the body ends without an error.

    Raises:
      OSError: with `path` as its file name.
    """
    with named(path):
        if _is_written_through(path):
            with _open_through(path) as file:
                yield file
            return
        target = pathlib.Path(os.path.realpath(path))
        if os.path.lexists(target) and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _make_folder(target.parent)
        _clean_once(str(target.parent))
        beside, file = _open_beside(target)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), _mode_of(target))
                # Under the lock: nobody takes it for litter before it has its name.
                os.replace(beside, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise
        sync_folder(target.parent)


@contextlib.contextmanager
def replacing_by_name(path: Path) -> Iterator[pathlib.Path]:
    """A path that a library writes a file at, which takes the place of `path` when the body ends.

    It lies in a hidden folder beside and has the same name, as libraries go by endings.

    Raises:
      OSError: with `path` as its file name, also where the library told it in other words.
    """
    with foreign_errors(path):
        target = pathlib.Path(os.path.realpath(path))
        with hidden_folder(target) as hidden:
            inside = hidden / target.name
            yield inside
            with open(inside, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(inside, _mode_of(target))
            os.replace(inside, target)
        sync_folder(target.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[pathlib.Path]:
    """A hidden folder to fill, which gets the name `path` when the body ends without an error.

    Raises:
      OSError: with `path` as its file name; FileExistsError where `path` has appeared meanwhile.
    """
    target = pathlib.Path(path)
    with foreign_errors(path), hidden_folder(target) as hidden:
        yield hidden
        for root, _, names in os.walk(hidden):
            for name in names:
                with open(os.path.join(root, name), "rb") as file:
                    os.fsync(file.fileno())
            sync_folder(root)
        if target.exists():  # a rename would replace an empty folder
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(hidden, target)
        sync_folder(target.parent)


@contextlib.contextmanager
def foreign_errors(path: Path) -> Iterator[None]:
    """As `named`, also for what TensorFlow and HDF5 raise where the system refuses them a file.

    Both tell it in a message of their own, which holds the words of the system.
    """
    try:
        with named(path):
            yield
    except Exception as error:
        if isinstance(error, UserError) or isinstance(error, OSError) and error.errno is not None:
            raise
        code = next((code for code in _TOLD_BY_LIBRARIES if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), os.fspath(path)) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as readable JSON."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as CSV; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def open_file(path: Path, *, most_bytes: int | None = None) -> BinaryIO:
    """Opens a regular file for reading, without ever waiting.

    Args:
      path: the file, or a link to it.
      most_bytes: refuse a larger file; None takes any.

    Raises:
      NotAFileError: it is a folder, pipe, socket or device.
      OSError: it cannot be read, or is too large; with `path` as its file name.
    """
    with named(path):
        handle, _ = _open_regular(path, most_bytes)
        return os.fdopen(handle, "rb")


def check_file(path: Path) -> None:
    """Raises what `open_file` would, for libraries that open a file themselves."""
    open_file(path).close()


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """The content of a regular file; arguments and errors as `open_file`."""
    with named(path):
        handle, size = _open_regular(path, most_bytes)
        try:
            raw = os.read(handle, size)
            # One call is the rule; more for what grows, or is larger than a system call gives.
            while len(raw) < most_bytes and (piece := os.read(handle, 1 << 20)):
                raw += piece
            return raw
        finally:
            os.close(handle)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an OSError of the body the file name `path`, unless it is about another file.

    Errors of writing carry no name, and those of a file beside carry a name nobody has heard of.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and _is_about(error.filename, os.fspath(path)):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def _is_about(name: object, path: str) -> bool:
    """Whether an error with the file name `name` is one of `path`: of it, above it, beside it."""
    if not isinstance(name, (str, bytes)):
        return True
    parts = pathlib.PurePath(os.path.abspath(os.fsdecode(name))).parts
    above = pathlib.PurePath(os.path.abspath(path)).parts[: len(parts)]
    return parts == above or any(is_litter(part) for part in parts)


def sync_folder(folder: Path) -> None:
    """Forces the names in a folder to the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_litter(name: str) -> bool:
    """Whether a file of this name is one that was being written."""
    return bool(_LITTER.match(name))


def clean_litter(folder: Path) -> None:
    """Removes what killed processes left half written in `folder`.

    A file that another process is writing now is locked by it, and stays. Not every file system
    shares locks between machines, so what another machine left stays for a day.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _LITTER.match(entry.name)
            if match and (match[1] == _machine() or _age_s(entry) > _DAY_S):
                _remove_if_dead(entry.path)


_clean_once = functools.lru_cache(maxsize=1024)(clean_litter)


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Four letters that tell this machine, since it was started, from others."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            name = file.read()  # containers of one machine have different host names
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:4]


def _age_s(entry: os.DirEntry) -> float:
    return time.time() - entry.stat(follow_symlinks=False).st_mtime


def _remove_if_dead(path: str) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        finally:
            os.close(handle)


def _open_beside(target: pathlib.Path) -> tuple[str, BinaryIO]:
    """A new file beside `target`, locked, and its path."""
    while True:
        beside = _hidden_name(target)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _locked(handle):
            return beside, os.fdopen(handle, "wb")
        os.close(handle)


@contextlib.contextmanager
def hidden_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new hidden folder beside `target`, no litter while it is in use, gone at the end."""
    _make_folder(target.parent)
    _clean_once(str(target.parent))
    while True:
        hidden = pathlib.Path(_hidden_name(target))
        hidden.mkdir()
        handle = os.open(hidden, os.O_RDONLY | os.O_CLOEXEC)
        if _locked(handle):
            break
        os.close(handle)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(handle)


def _hidden_name(target: pathlib.Path) -> str:
    """The name of something that is being written and will be `target`."""
    ending = f".{_machine()}{uuid.uuid4().hex[:8]}{PARTIAL}"
    name = os.fsdecode(os.fsencode(target.name)[: _LONGEST_NAME_BYTES - len(ending) - 1])
    return os.path.join(target.parent, f".{name}{ending}")


def _locked(handle: int) -> bool:
    """Locks what was just made; False where it was taken for litter before."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fstat(handle).st_nlink > 0


def _is_written_through(path: Path) -> bool:
    """Whether `path` is there and must not be replaced by a file."""
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


def _make_folder(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # Python's word for a file in the way
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def _open_through(path: Path) -> BinaryIO:
    # Without O_NONBLOCK a pipe that nobody reads would wait for ever.
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(handle, True)
    return os.fdopen(handle, "wb")


def _mode_of(target: pathlib.Path) -> int:
    """The permissions of the file that is there, or those of any new file."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _open_regular(path: Path, most_bytes: int | None) -> tuple[int, int]:
    """(descriptor, bytes) of a regular file."""
    try:
        # Without O_NONBLOCK a pipe that nobody writes into would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "no file")
            raise NotAFileError(errno.EINVAL, f"it is {kind}, a file was expected")
        if most_bytes is not None and status.st_size > most_bytes:
            raise OSError(
                errno.EFBIG,
                f"it has {status.st_size:,} bytes, more than the {most_bytes:,} it may have",
            )
    except BaseException:
        os.close(handle)
        raise
    return handle, status.st_size


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace")
