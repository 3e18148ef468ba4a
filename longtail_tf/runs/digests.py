"""digests.json: SHA-256 and size of each file of a run folder that is read again, checked then.

It catches a folder that was copied in part, mixed from two runs or edited, before its numbers
are believed; it is no protection against someone who means harm.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from longtail_tf.errors import UserError
from longtail_tf.files import open_file
from longtail_tf.text_files import damaged, read_json

FILE = "digests.json"
_CHUNK_BYTES = 1 << 20


class Digest(NamedTuple):
    """SHA-256 in hex, and size; None where an older version did not take it down."""

    sha256: str
    num_bytes: int | None


def recorded(folder: pathlib.Path) -> dict[str, Digest]:
    """File name -> its digest as written; empty where the folder has no digests.json.

    Raises:
      UserError: digests.json is damaged.
    """
    path = folder / FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    digests, sizes = content.get("sha256"), content.get("bytes", {})
    if not isinstance(digests, dict) or not isinstance(sizes, dict):
        raise damaged(path, "it has no table sha256 of file names and digests")
    for name, value in digests.items():
        if not isinstance(value, str) or type(sizes.get(name, 0)) is not int:
            raise damaged(path, f"what it says of {name} is no digest")
    return {name: Digest(value, sizes.get(name)) for name, value in digests.items()}


def updated(folder: pathlib.Path, names: Iterable[str]) -> str:
    """The text of digests.json with the digests of the files `names` as they are now.

    Args:
      folder: the run folder.
      names: files that were written; one that does not exist is taken out.
    """
    digests = recorded(folder)
    for name in names:
        digests.pop(name, None)
        if (folder / name).is_file():
            digests[name] = digest_of(folder / name)
    return _text(digests)


def without(folder: pathlib.Path, names: Iterable[str]) -> str:
    """The text of digests.json before the files `names` are written again."""
    gone = set(names)
    kept = {name: digest for name, digest in recorded(folder).items() if name not in gone}
    return _text(kept)


def _text(digests: dict[str, Digest]) -> str:
    ordered = sorted(digests.items())
    content = {
        "sha256": {name: digest.sha256 for name, digest in ordered},
        "bytes": {name: d.num_bytes for name, d in ordered if d.num_bytes is not None},
    }
    return json.dumps(content, indent=2) + "\n"


def check(folder: pathlib.Path, names: Iterable[str], *, remedy: str) -> None:
    """Holds files against their recorded digests; files without one pass.

    Args:
      folder: the run folder.
      names: files that are about to be read; a missing one is left to its reader.
      remedy: what else to do than to restore the file from a copy.

    Raises:
      UserError: a file is not as it was written.
      OSError: a file cannot be read.
    """
    digests = recorded(folder)
    for name in names:
        path = folder / name
        if name not in digests or not path.is_file():
            continue
        wanted = digests[name]
        size = path.stat().st_size
        if wanted.num_bytes is not None and size != wanted.num_bytes:  # before all of it is read
            found, expected = f"{size:,} bytes", f"{wanted.num_bytes:,}"
        else:
            found, expected = digest_of(path).sha256, wanted.sha256
            if found == expected:
                continue
            found, expected = f"sha256 {found[:12]}", expected[:12]
        raise UserError(
            f"{path} was changed after the run wrote it ({found}, {FILE} says {expected}): restore "
            f"it from a copy, or {remedy}. If you changed it on purpose, take its line out of "
            f"{FILE}."
        )


def digest_of(path: pathlib.Path) -> Digest:
    """The digest of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
    return Digest(digest.hexdigest(), size)
