"""Cases: a machine that is not as hoped: permissions, a full disk, another locale."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

from tests.sweep.calls import MAY_CHANGE, good_call, run_call
from tests.sweep.case import Call, Case, Place
from tests.sweep.named_files import ENTRIES, NEEDS_EXPORT
from tests.sweep.run_folders import copy_run
from tests.sweep.world import change_settings

DISK_BYTES = 24 << 20
FREE = (0, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
FILE_LIMITS = (0, 100, 1000, 10_000, 100_000, 1_000_000)
WRITERS = ("train", "evaluate", "report", "compare", "export", "enroll", "convert", "inspect")
HALF = ("checkpoints/*", "metrics.jsonl", ".lock", "digests.json", "config.json", "config.flags")
# What may be there anew after a call that found the disk full.
REWRITTEN = {
    "train": tuple(f"run/{name}" for name in (*HALF, "tensorboard/*", "*.json", "*.csv", "*.npz",
                                               "*.h5", "report.html")),
    "evaluate": ("run/digests.json", "run/evaluation.json", "run/per_class.csv",
                 "run/embeddings.npz"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Permissions, full disks and locales for every entry point."""
    yield from _permissions()
    yield from _disks()
    for locale in ("c", "latin1"):
        for entry in ENTRIES:
            for own in (False, True):
                prepare = functools.partial(_in_locale, entry=entry, locale=locale, own=own)
                name = f"locale {locale}{', odd names' if own else ''}"
                yield Case(entry, name, prepare, small=entry not in NEEDS_EXPORT)
    for entry in ENTRIES:
        for stream in ("stdout", "stderr"):
            prepare = functools.partial(_full_stream, entry=entry, stream=stream)
            small = entry not in NEEDS_EXPORT
            yield Case(entry, f"{stream} on a full disk", prepare, small=small)
    for entry in ("evaluate", "classify", "report", "export", "enroll"):
        for name in ("data gone", "data elsewhere", "another working folder"):
            prepare = functools.partial(_without_data, entry=entry, what=name)
            yield Case(entry, name, prepare)


# Permissions


def _permissions() -> Iterator[Case]:
    for entry in ("train", "evaluate", "report", "export", "enroll", "classify", "compare"):
        for name, mode in (("closed", 0o000), ("read-only", 0o500), ("not enterable", 0o600)):
            prepare = functools.partial(_run_with_mode, entry=entry, mode=mode)
            yield Case(entry, f"run folder {name}", prepare)
    for entry in ENTRIES:
        prepare = functools.partial(_closed_working_folder, entry=entry)
        yield Case(entry, "working folder read-only", prepare, small=entry not in NEEDS_EXPORT)
    for entry in ("train", "evaluate", "report", "export", "enroll"):
        for name in ("checkpoints", "export", "enrolled", "metrics.jsonl", ".lock"):
            prepare = functools.partial(_closed_inside, entry=entry, name=name)
            yield Case(entry, f"run's {name} read-only", prepare)


def _run_with_mode(place: Place, *, entry: str, mode: int) -> Call:
    run = copy_run(place, entry)
    run.chmod(mode)
    reads_only = entry in ("classify", "compare") and mode == 0o500
    return Call(
        run_call(entry, place, run),
        plain_user=True,
        expect="work" if reads_only else "refuse",
        names=("run",),
        may_change=MAY_CHANGE.get(entry, ()),
    )


def _closed_working_folder(place: Place, *, entry: str) -> Call:
    place.folder.chmod(0o500)
    return Call(
        good_call(entry, place),
        plain_user=True,
        expect="work" if entry in ("classify", "inspect", "serve") else "refuse",
        until="serving on" if entry == "serve" else "",
    )


def _closed_inside(place: Place, *, entry: str, name: str) -> Call:
    run = copy_run(place, entry)
    path = run / name
    if not path.exists():
        if name == ".lock":
            path.touch()
        else:
            path.mkdir()
    path.chmod(0o400 if path.is_file() else 0o500)
    return Call(
        run_call(entry, place, run),
        plain_user=True,
        may_change=MAY_CHANGE.get(entry, ()),
        changes_when_refused=REWRITTEN.get(entry, ()),
    )


# Full disks


def _disks() -> Iterator[Case]:
    for entry in WRITERS:
        levels = FREE if entry != "inspect" else FREE[:3]
        for level in levels:
            if os.geteuid() == 0:
                prepare = functools.partial(_full_disk, entry=entry, free=level)
                yield Case(entry, f"disk with {level:,} bytes free", prepare)
        for limit in FILE_LIMITS if entry != "inspect" else FILE_LIMITS[:3]:
            prepare = functools.partial(_small_files, entry=entry, limit=limit)
            yield Case(entry, f"files of {limit:,} bytes at most", prepare)


def _writer(place: Place, entry: str, disk: pathlib.Path) -> tuple[list[str], tuple]:
    """(a call that writes below `disk`, the call that must work when there is room)."""
    run = disk / "run"
    if entry == "convert":
        call = [f"--data=folder:{place.world.photos}", f"--out={disk / 'shards'}", "--workers=1"]
        return call, (("convert", tuple(call)),)
    if entry == "inspect":
        call = [f"--data=npz:{place.world.npz}", f"--png={disk / 'tail.png'}"]
        return call, (("inspect", tuple(call)),)
    source = place.world.stopped if entry == "train" else place.world.run
    ignored = shutil.ignore_patterns("export", "enrolled", ".lock")
    shutil.copytree(source, run, ignore=ignored)
    call = run_call(entry, place, run)
    if entry == "compare":
        call.append(f"--out={disk / 'out.html'}")
    return call, ((entry, tuple(call)),)


def _full_disk(place: Place, *, entry: str, free: int) -> Call:
    disk = place.path("disk")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    arguments, then = _writer(place, entry, disk)
    status = os.statvfs(disk)
    room = status.f_bavail * status.f_frsize - free
    filler = disk / "filler"
    with open(filler, "wb") as file:
        file.write(bytes(max(room, 0)))
    rewritten = tuple(f"disk/{pattern}" for pattern in REWRITTEN.get(entry, ()))
    changed = tuple(f"disk/{pattern}" for pattern in MAY_CHANGE.get(entry, ()))
    return Call(
        arguments,
        may_change=("disk/filler", *changed),
        changes_when_refused=("disk/filler", *rewritten),
        relief=functools.partial(filler.unlink),
        then=then,
    )


def _small_files(place: Place, *, entry: str, limit: int) -> Call:
    disk = place.path("disk")
    disk.mkdir()
    arguments, then = _writer(place, entry, disk)
    rewritten = tuple(f"disk/{pattern}" for pattern in REWRITTEN.get(entry, ()))
    changed = tuple(f"disk/{pattern}" for pattern in MAY_CHANGE.get(entry, ()))
    return Call(
        arguments,
        may_change=changed,
        changes_when_refused=rewritten,
        file_bytes=limit,
        then=then,
    )


# Locales and streams


def _in_locale(place: Place, *, entry: str, locale: str, own: bool) -> Call:
    arguments = good_call(entry, place)
    if own and entry in ("classify", "enroll"):
        image = place.copy(place.world.image, "bär.png")
        arguments = [*arguments[:-1], str(image)]
    elif own and entry in ("evaluate", "report", "export"):
        run = place.path("läufe")
        shutil.copytree(
            place.world.run, run, ignore=shutil.ignore_patterns("export", "enrolled", ".lock")
        )
        arguments = [f"--run_dir={run}" if "run_dir" in each else each for each in arguments]
    elif own and entry in ("inspect", "convert", "train"):
        data = place.copy(place.world.npz, "bär.npz")
        arguments = [f"--data=npz:{data}" if "--data" in each else each for each in arguments]
    return Call(
        arguments,
        expect="work",
        locale=locale,
        until="serving on" if entry == "serve" else "",
    )


def _full_stream(place: Place, *, entry: str, stream: str) -> Call:
    return Call(
        good_call(entry, place),
        expect="any",
        until="",
        streams={stream: "/dev/full"},
    )


# Data that is not where it was


def _without_data(place: Place, *, entry: str, what: str) -> Call:
    run = copy_run(place, entry)
    spec = {
        "data gone": f"npz:{place.path('gone.npz')}",
        "data elsewhere": f"npz:{place.path('gone.npz')}",
        "another working folder": "npz:data.npz",
    }[what]
    change_settings(run, data=spec)
    arguments = run_call(entry, place, run)
    if what == "data elsewhere" and entry in ("evaluate", "report", "export"):
        arguments += [
            f"--data=npz:{place.world.npz}",
            *(["--out=out"] if entry == "evaluate" else []),
        ]
    needs_data = entry in ("evaluate", "export") and what != "data elsewhere"
    return Call(
        arguments,
        expect="refuse" if needs_data else "work",
        names=("npz",),
        may_change=MAY_CHANGE.get(entry, ()),
    )
