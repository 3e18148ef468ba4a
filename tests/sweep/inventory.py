"""What lies in a folder before and after a case: what was lost, what was left lying about."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

_LARGE_BYTES = 64 << 20  # of larger files only the size is kept
_LITTER = re.compile(
    r"\.part$|(^|/)\.[^/]+\.[a-z0-9_]{8}$|_temp(/|$)|\.partial$|(^|/)\.[^/]*\.tmp($|/)"
)


class Entry(NamedTuple):
    """One entry of a folder: its kind, its device or link target, and a digest of a file."""

    kind: str
    detail: str


def inventory(folder: str) -> dict[str, Entry]:
    """Every entry below `folder` by its relative path."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            found[os.path.relpath(path, folder)] = _entry(path)
    return found


def lost(
    before: dict[str, Entry], after: dict[str, Entry], *, may_change: Iterable[str] = ()
) -> list[str]:
    """Entries that are gone or are not what they were; a sentence on each.

    Args:
      before, after: of one folder.
      may_change: patterns of paths that the case may write anew or remove, but not make into
        something of another kind.
    """
    patterns = tuple(may_change)
    told = []
    for path, entry in before.items():
        now = after.get(path)
        allowed = any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
        if now is None:
            if not allowed:
                told.append(f"{path!r} ({entry.kind}) is gone")
        elif now.kind != entry.kind:
            told.append(f"{path!r} was a {entry.kind} and is a {now.kind}")
        elif now != entry and not allowed:
            told.append(f"{path!r} ({entry.kind}) has changed")
    return told


def litter(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """New entries that look like half a file or folder."""
    return sorted(path for path in after if path not in before and _LITTER.search(path))


def _entry(path: str) -> Entry:
    status = os.lstat(path)
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return Entry("link", os.readlink(path))
    if stat.S_ISDIR(mode):
        return Entry("folder", "")
    if stat.S_ISREG(mode):
        if status.st_size > _LARGE_BYTES:
            return Entry("file", str(status.st_size))
        with open(path, "rb") as file:
            return Entry("file", hashlib.sha256(file.read()).hexdigest())
    if stat.S_ISCHR(mode):
        return Entry("device", f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    return Entry("pipe" if stat.S_ISFIFO(mode) else "special", "")
