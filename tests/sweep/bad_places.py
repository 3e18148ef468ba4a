"""Ways in which the place that a path names is bad, whatever the file should hold."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple, Optional

SPARSE_BYTES = 20 << 30
CAN_MAKE_DEVICES = os.geteuid() == 0
_NULL, _ZERO, _FULL = (1, 3), (1, 5), (1, 7)


class BadPlace(NamedTuple):
    """What to name, and whether a refusal is due."""

    path: str
    expect: str = "refuse"
    plain_user: bool = False


def missing(path: pathlib.Path, good: bytes) -> BadPlace:
    """Nothing is there."""
    path.unlink(missing_ok=True)
    return BadPlace(str(path))


def empty(path: pathlib.Path, good: bytes) -> BadPlace:
    """A file without a byte."""
    path.write_bytes(b"")
    return BadPlace(str(path), "any")


def folder(path: pathlib.Path, good: bytes) -> BadPlace:
    """A folder where a file is expected."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_bytes(good)
    return BadPlace(str(path))


def pipe(path: pathlib.Path, good: bytes) -> BadPlace:
    """A FIFO that nobody writes into: opening it waits for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return BadPlace(str(path))


def unix_socket(path: pathlib.Path, good: bytes) -> BadPlace:
    """A socket."""
    path.unlink(missing_ok=True)
    here = os.getcwd()
    try:
        os.chdir(path.parent)  # the name of a socket may have a hundred bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
    return BadPlace(str(path))


def null_device(path: pathlib.Path, good: bytes) -> BadPlace:
    """A device that gives nothing."""
    make_device(path, _NULL)
    return BadPlace(str(path), "any")


def endless_device(path: pathlib.Path, good: bytes) -> BadPlace:
    """A device that never ends."""
    make_device(path, _ZERO)
    return BadPlace(str(path))


def broken_link(path: pathlib.Path, good: bytes) -> BadPlace:
    """A link to nothing."""
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")
    return BadPlace(str(path))


def link_to_itself(path: pathlib.Path, good: bytes) -> BadPlace:
    """A link that leads to itself."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    return BadPlace(str(path))


def link_to_folder(path: pathlib.Path, good: bytes) -> BadPlace:
    """A link to a folder."""
    path.unlink(missing_ok=True)
    path.symlink_to(".")
    return BadPlace(str(path))


def good_link(path: pathlib.Path, good: bytes) -> BadPlace:
    """A link to a good file: nothing is wrong."""
    real = path.with_name(f"real {path.name}")
    real.write_bytes(good)
    path.unlink(missing_ok=True)
    path.symlink_to(real.name)
    return BadPlace(str(path), "work")


def no_permission(path: pathlib.Path, good: bytes) -> BadPlace:
    """A file that may not be read."""
    path.write_bytes(good)
    path.chmod(0)
    return BadPlace(str(path), plain_user=True)


def sparse(path: pathlib.Path, good: bytes) -> BadPlace:
    """A file of 20 GB that takes no room on the disk."""
    path.write_bytes(good)
    os.truncate(path, SPARSE_BYTES)
    return BadPlace(str(path))


# Places of a file that lies in a folder and is looked for there.
PLACES: Mapping[str, Callable[[pathlib.Path, bytes], BadPlace]] = {
    "missing": missing,
    "empty": empty,
    "a folder": folder,
    "a pipe": pipe,
    "a socket": unix_socket,
    "a null device": null_device,
    "an endless device": endless_device,
    "a broken link": broken_link,
    "a link to itself": link_to_itself,
    "a link to a folder": link_to_folder,
    "a good link": good_link,
    "not permitted": no_permission,
    "20 GB and sparse": sparse,
}


# Ways to name a file on a command line.


def below_a_file(path: pathlib.Path, good: bytes) -> BadPlace:
    """A path through a file."""
    path.write_bytes(good)
    return BadPlace(f"{path}/below")


def in_closed_folder(path: pathlib.Path, good: bytes) -> BadPlace:
    """In a folder that may not be entered."""
    closed = path.parent / "closed"
    closed.mkdir()
    (closed / path.name).write_bytes(good)
    closed.chmod(0)
    return BadPlace(str(closed / path.name), plain_user=True)


def long_name(path: pathlib.Path, good: bytes) -> BadPlace:
    """A name that no file system takes."""
    return BadPlace(str(path.with_name("x" * 300 + path.suffix)))


def long_path(path: pathlib.Path, good: bytes) -> BadPlace:
    """A path that no system call takes."""
    return BadPlace(str(path.parent) + "/abc" * 2000 + path.suffix)


def line_break(path: pathlib.Path, good: bytes) -> BadPlace:
    """A good file with a line break and an escape sequence in its name."""
    odd = path.with_name(f"one\ntwo\x1b[31m{path.suffix}")
    odd.write_bytes(good)
    return BadPlace(str(odd), "any")


def not_utf8(path: pathlib.Path, good: bytes) -> BadPlace:
    """A good file whose name is no UTF-8."""
    odd = os.fsencode(path.parent) + b"/caf\xe9" + os.fsencode(path.suffix)
    with open(odd, "wb") as file:
        file.write(good)
    return BadPlace(os.fsdecode(odd), "any")


def spaces(path: pathlib.Path, good: bytes) -> BadPlace:
    """A good file with spaces, quotes and a dollar in its name: nothing is wrong."""
    odd = path.with_name(f"my 'own' $file{path.suffix}")
    odd.write_bytes(good)
    return BadPlace(str(odd), "work")


def empty_name(path: pathlib.Path, good: bytes) -> BadPlace:
    """No name at all."""
    return BadPlace("", "any")


def standard_input(path: pathlib.Path, good: bytes) -> BadPlace:
    """Standard input, which is empty."""
    return BadPlace("/dev/stdin", "any")


NAMES: Mapping[str, Callable[[pathlib.Path, bytes], BadPlace]] = {
    **PLACES,
    "below a file": below_a_file,
    "in a closed folder": in_closed_folder,
    "of a long name": long_name,
    "of a long path": long_path,
    "with a line break": line_break,
    "no UTF-8": not_utf8,
    "with spaces": spaces,
    "of no name": empty_name,
    "standard input": standard_input,
}


def make_device(path: pathlib.Path, number: Optional[tuple[int, int]] = None) -> None:
    """A device node; where only root could make one, a link to the machine's own."""
    path.unlink(missing_ok=True)
    number = number or _NULL
    if CAN_MAKE_DEVICES:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*number))
    else:
        path.symlink_to({_NULL: "/dev/null", _ZERO: "/dev/zero", _FULL: "/dev/full"}[number])


def full_device(path: pathlib.Path) -> None:
    """A device on which every write finds the disk full."""
    make_device(path, _FULL)
