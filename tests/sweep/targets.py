"""Cases: an output option that points where it must not write, or cannot."""

from __future__ import annotations

import functools
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tests.sweep.bad_places import BadPlace, full_device, make_device
from tests.sweep.calls import good_call, replaced
from tests.sweep.case import Call, Case, Place
from tests.sweep.runner import Outcome


class Target(NamedTuple):
    """An output option: whether it names a file or a folder, and what else the call needs."""

    entry: str
    option: str
    kind: str
    more: tuple[str, ...] = ()
    small: bool = True


TARGETS = (
    Target("report", "out", "file"),
    Target("report", "projector", "folder"),
    Target("compare", "out", "file"),
    Target("compare", "projector", "folder"),
    Target("inspect", "png", "file"),
    Target("inspect", "check_csv", "file", ("--check",)),
    Target("inspect", "quarantine", "file", ("--check",)),
    Target("inspect", "show_batch", "file"),
    Target("evaluate", "out", "folder"),
    Target("export", "export_dir", "folder"),
    Target("enroll", "out_dir", "folder"),
    Target("convert", "out", "folder"),
    Target("train", "run_dir", "folder"),
)
SLOW = ("export", "train")  # a call that works takes seconds: only what must be refused


def null_device(place: Place) -> BadPlace:
    """A device that swallows everything."""
    make_device(place.path("nul"))
    return BadPlace("nul", "work")


def disk_full_device(place: Place) -> BadPlace:
    """A device on which the disk is always full."""
    full_device(place.path("full"))
    return BadPlace("full")


def link_to_file(place: Place) -> BadPlace:
    """A link to a file: the file is written, the link stays."""
    place.path("real").write_text("before", encoding="utf-8")
    place.path("link").symlink_to("real")
    return BadPlace("link", "work")


def link_to_missing_file(place: Place) -> BadPlace:
    """A link to a file that is not there yet."""
    place.path("link").symlink_to("later")
    return BadPlace("link", "work")


def link_to_folder(place: Place) -> BadPlace:
    """A link to a folder."""
    place.path("inside").mkdir()
    place.path("link").symlink_to("inside")
    return BadPlace("link", "any")


def link_to_device(place: Place) -> BadPlace:
    """A link to a device."""
    make_device(place.path("nul"))
    place.path("link").symlink_to("nul")
    return BadPlace("link", "work")


def link_to_itself(place: Place) -> BadPlace:
    """A link that leads to itself."""
    place.path("link").symlink_to("link")
    return BadPlace("link")


def a_file(place: Place) -> BadPlace:
    """A file that is there."""
    place.path("there").write_text("before", encoding="utf-8")
    return BadPlace("there", "work")


def a_folder(place: Place) -> BadPlace:
    """A folder with something in it."""
    place.path("there").mkdir()
    (place.path("there") / "mine.txt").write_text("mine", encoding="utf-8")
    return BadPlace("there")


def empty_folder(place: Place) -> BadPlace:
    """An empty folder."""
    place.path("there").mkdir()
    return BadPlace("there")


def below_a_file(place: Place) -> BadPlace:
    """A path through a file."""
    place.path("file").write_text("before", encoding="utf-8")
    return BadPlace("file/below/out")


def missing_folder(place: Place) -> BadPlace:
    """In folders that are not there yet."""
    return BadPlace("new/folders/out", "any")


def closed_folder(place: Place) -> BadPlace:
    """In a folder that may not be written into."""
    place.path("closed").mkdir()
    place.path("closed").chmod(0o500)
    return BadPlace("closed/out", plain_user=True)


def read_only_file(place: Place) -> BadPlace:
    """A file without permission to write, in a folder with it."""
    place.path("there").write_text("before", encoding="utf-8")
    place.path("there").chmod(0o400)
    return BadPlace("there", "any", plain_user=True)


def a_pipe(place: Place) -> BadPlace:
    """A pipe with a reader: what is written goes through it."""
    path = place.path("pipe")
    os.mkfifo(path)
    threading.Thread(target=_drain, args=(path,), daemon=True).start()
    return BadPlace("pipe", "any")


def a_pipe_nobody_reads(place: Place) -> BadPlace:
    """A pipe without a reader: opening it waits for ever."""
    os.mkfifo(place.path("pipe"))
    return BadPlace("pipe", "any")


def long_name(place: Place) -> BadPlace:
    """A name that no file system takes."""
    return BadPlace("x" * 300)


def longest_name(place: Place) -> BadPlace:
    """The longest name there is, so that nothing longer can stand beside it."""
    return BadPlace("x" * 251 + ".png", "any")


def line_break(place: Place) -> BadPlace:
    """A name with a line break and an escape sequence."""
    return BadPlace("a\nb\x1b[31m", "any")


def not_utf8(place: Place) -> BadPlace:
    """A name that is no UTF-8."""
    return BadPlace(os.fsdecode(b"caf\xe9"), "any")


def with_spaces(place: Place) -> BadPlace:
    """A name with spaces, quotes and a dollar."""
    return BadPlace("my 'own' $out", "work")


def standard_output(place: Place) -> BadPlace:
    """Standard output."""
    return BadPlace("/dev/stdout", "any")


def current_folder(place: Place) -> BadPlace:
    """The working folder itself."""
    return BadPlace(".", "any")


def ending_in_slash(place: Place) -> BadPlace:
    """A name that ends in a slash."""
    return BadPlace("new/", "any")


PLACES: Mapping[str, Callable[[Place], BadPlace]] = {
    function.__name__: function
    for function in (
        null_device, disk_full_device, link_to_file, link_to_missing_file, link_to_folder,
        link_to_device, link_to_itself, a_file, a_folder, empty_folder, below_a_file,
        missing_folder, closed_folder, read_only_file, a_pipe, a_pipe_nobody_reads, long_name,
        longest_name, line_break, not_utf8, with_spaces, standard_output, current_folder,
        ending_in_slash,
    )
}  # fmt: skip
WORKS_AS_FOLDER = (
    "missing_folder", "empty_folder", "link_to_folder", "with_spaces", "not_utf8", "line_break",
    "longest_name", "ending_in_slash", "current_folder", "a_folder",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Every output option in every bad place."""
    for target in TARGETS:
        for name, make in PLACES.items():
            if target.entry in SLOW and name in WORKS_AS_FOLDER:
                continue
            prepare = functools.partial(_prepare, target=target, make=make, name=name)
            title = f"--{target.option} {name.replace('_', ' ')}"
            yield Case(target.entry, title, prepare, small=target.small)


def _prepare(place: Place, *, target: Target, make: Callable, name: str) -> Call:
    bad = make(place)
    expect = bad.expect
    if target.kind == "folder":
        expect = "any" if name in WORKS_AS_FOLDER else "refuse"
        if name in ("a_pipe", "standard_output", "link_to_missing_file"):
            expect = "any"
    arguments = [*replaced(good_call(target.entry, place), target.option, bad.path), *target.more]
    writes = ("real", "there", "later") if expect != "refuse" else ()

    def check(outcome: Outcome) -> str:
        path = place.path("real")
        if name == "link_to_file" and path.read_bytes() == b"before":
            return "the file behind the link was not written"
        return ""

    return Call(
        arguments,
        expect=expect,
        names=(bad.path[:60],) if expect == "refuse" else (),
        may_change=writes,
        plain_user=bad.plain_user,
        check=check,
    )


def _drain(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 16):
            pass
