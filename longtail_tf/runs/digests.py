"""digests.json: the SHA-256 of each file of a run folder that is read again, checked when it is.

It catches a folder that was copied in part, mixed from two runs or edited, before its numbers
are believed; it is no protection against someone who means harm.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable

from longtail_tf.errors import UserError

FILE = "digests.json"
_CHUNK_BYTES = 1 << 20


def recorded(folder: pathlib.Path) -> dict[str, str]:
    """File name -> SHA-256 as written; empty where the folder has no digests.json.

    Raises:
      UserError: digests.json is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text())["sha256"]
        return {str(name): str(digest) for name, digest in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy.") from error


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
            digests[name] = sha256_of(folder / name)
    return _text(digests)


def without(folder: pathlib.Path, names: Iterable[str]) -> str:
    """The text of digests.json before the files `names` are written again."""
    gone = set(names)
    kept = {name: digest for name, digest in recorded(folder).items() if name not in gone}
    return _text(kept)


def _text(digests: dict[str, str]) -> str:
    return json.dumps({"sha256": dict(sorted(digests.items()))}, indent=2) + "\n"


def check(folder: pathlib.Path, names: Iterable[str], *, remedy: str) -> None:
    """Holds files against their recorded digests; files without one pass.

    Args:
      folder: the run folder.
      names: files that are about to be read; a missing one is left to its reader.
      remedy: what else to do than to restore the file from a copy.

    Raises:
      UserError: a file is not as it was written.
    """
    digests = recorded(folder)
    for name in names:
        path = folder / name
        if name not in digests or not path.is_file():
            continue
        found = sha256_of(path)
        if found != digests[name]:
            raise UserError(
                f"{path} was changed after the run wrote it (sha256 {found[:12]}, {FILE} says "
                f"{digests[name][:12]}): restore it from a copy, or {remedy}. If you changed it on "
                f"purpose, take its line out of {FILE}."
            )


def sha256_of(path: pathlib.Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
