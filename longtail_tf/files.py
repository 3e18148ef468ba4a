"""Files written whole: beside their place, then renamed; no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Union

Path = Union[str, "os.PathLike[str]"]


def write_atomically(path: Path, data: Union[bytes, str]) -> None:
    """Writes beside `path` and renames, so that no reader ever sees half a file."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp's 0600 would lock out a serving user
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as readable JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as CSV, atomically; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
