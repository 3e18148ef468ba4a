"""Version folders: the next number, a hidden sibling while writing, one rename to publish.

TF Serving looks once a second for integer folders and loads what it finds, half-written or not.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator

from longtail_tf.errors import UserError
from longtail_tf.files import named, new_folder

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


def versions(model_folder: pathlib.Path) -> list[int]:
    """Published versions in `model_folder`, rising; other names are not versions."""
    with named(model_folder):
        if not model_folder.is_dir():
            return []
        names = [path.name for path in model_folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def choose_version(model_folder: pathlib.Path, version: int | None = None) -> int:
    """`version` if it is free, the next one when None.

    Raises:
      UserError: the version exists, or is not a positive number.
    """
    taken = versions(model_folder)
    following = taken[-1] + 1 if taken else 1
    if version is None:
        return following
    if version < 1:
        raise UserError(f"--version={version}: a version is a whole number from 1 up.")
    if version in taken:
        raise UserError(
            f"{model_folder / str(version)} exists and is never overwritten: leave --version out "
            f"for {following}, or give a free number."
        )
    return version


@contextlib.contextmanager
def new_version(
    export_dir: pathlib.Path, *, model_name: str, version: int | None = None
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields (hidden folder to write into, final folder); renames on success, removes on failure.

    Raises:
      UserError: bad model name, bad version, or the version appeared in the meantime.
    """
    if not MODEL_NAME.match(model_name):
        raise UserError(
            f"--model_name={model_name!r} is part of a path and of requests: use letters, digits, "
            "_, - and ., starting with a letter or digit."
        )
    model_folder = pathlib.Path(export_dir) / model_name
    final = model_folder / str(choose_version(model_folder, version))
    try:
        with new_folder(final) as hidden:
            yield hidden, final
    except FileExistsError as error:
        raise UserError(
            f"{final} appeared while this export was written and is never overwritten: run the "
            "export again for the next version."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # as it was, where nothing was published
            model_folder.rmdir()
