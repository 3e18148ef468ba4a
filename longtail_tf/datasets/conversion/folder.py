"""The folder of a conversion: one conversion at a time, and never two different ones."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import time
from collections.abc import Iterator
from typing import IO, Any

from longtail_tf.errors import UserError
from longtail_tf.files import clean_litter, is_litter, named, write_json
from longtail_tf.text_files import read_json

MANIFEST = "conversion.json"
_LOCK = ".conversion.lock"
_LOCK_SECONDS = 5.0


@contextlib.contextmanager
def claimed_folder(folder: pathlib.Path, manifest: dict[str, Any]) -> Iterator[None]:
    """The folder for this conversion alone; refuses one that holds anything else."""
    present = folder / MANIFEST
    with named(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out={folder} is a file; give a folder")
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if MANIFEST in names:
        try:
            before = read_json(present)
        except UserError as error:
            raise UserError(f"{error} Or convert into another folder.") from None
        before.pop("complete", None)
        changed = sorted(key for key in manifest if before.get(key) != manifest[key])
        if changed:
            raise UserError(
                f"{folder} holds shards of another conversion (its {', '.join(changed)} differ); "
                "convert into another folder, or delete this one"
            )
    elif any(name != _LOCK and not is_litter(name) for name in names):
        raise UserError(
            f"{folder} is not empty and holds no conversion; give a new or an empty folder"
        )
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with named(folder / _LOCK):
        lock = open(folder / _LOCK, "w", encoding="utf-8")  # noqa: SIM115
    with lock:
        _lock(folder, lock)
        clean_litter(folder)
        if not present.exists():
            write_json(present, {**manifest, "complete": False})
        yield


def _lock(folder: pathlib.Path, file: IO[str]) -> None:
    # Workers of a conversion that was killed hold the lock until they notice.
    patience = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() > patience:
                raise UserError(
                    f"another process is converting into {folder}; wait for it, or stop it"
                ) from error
        time.sleep(0.1)
