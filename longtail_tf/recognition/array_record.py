"""A dataclass of arrays and plain values as one .npz file, without pickle."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.npz_files import read_arrays

_META = "meta"


def save_record(path: str | os.PathLike[str], record: Any, *, kind: str, version: int) -> None:
    """Writes a dataclass instance, atomically; equal content gives equal bytes.

    Args:
      path: the .npz file.
      record: a dataclass instance whose fields are arrays, None, or JSON values.
      kind: what the file holds, one word; checked on loading.
      version: of the format; a reader refuses files newer than itself.
    """
    arrays: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            values[field.name] = value
    meta = {"kind": kind, "version": version, "arrays": sorted(arrays), "values": values}
    buffer = io.BytesIO()
    np.savez(buffer, **{_META: json.dumps(meta, sort_keys=True), **arrays})
    write_atomically(path, buffer.getvalue())


def load_record(
    path: str | os.PathLike[str],
    record_type: type,
    *,
    kind: str,
    version: int,
    retired: Mapping[str, Callable[[Any], bool]] | None = None,
) -> dict[str, Any]:
    """Returns the fields that `save_record` wrote, ready for `record_type(**fields)`.

    Args:
      path: the .npz file.
      record_type: the dataclass.
      kind: what the file must hold.
      version: the newest format that is read.
      retired: fields that older versions wrote -> whether a value of it meant nothing.

    Raises:
      UserError: no such file, not a record of this kind, a newer format, a damaged or partial file,
        or a retired field that meant something.
    """
    try:
        arrays = read_arrays(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; it is written when training ends or by "
            "`python -m longtail_tf.evaluate`"
        ) from None
    except UserError as error:
        raise _damaged(path, kind, error) from error
    if _META not in arrays:
        raise UserError(f"{path} is not a {kind} file written by longtail_tf")
    meta = _meta(path, arrays.pop(_META), kind)
    if meta["kind"] != kind:
        raise UserError(f"{path} holds a {meta['kind']}; a {kind} file was expected")
    if meta["version"] > version:
        raise UserError(
            f"{path} has format {meta['version']}, this longtail_tf reads up to {version}; "
            "install the newer version that wrote it"
        )
    missing = sorted(set(meta["arrays"]) - set(arrays))
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; copy the whole file again or evaluate "
            "the run again to make a new one"
        )
    fields = {**meta["values"], **{name: arrays[name] for name in meta["arrays"]}}
    for name, means_nothing in (retired or {}).items():
        if name in fields and not means_nothing(fields[name]):
            raise UserError(
                f"{path} was written with {name}, which this longtail_tf has no more: read it "
                "with the version that config.json beside it names, or train again"
            )
    known = {field.name for field in dataclasses.fields(record_type)}
    return {name: value for name, value in fields.items() if name in known}


def _meta(path: Any, text: np.ndarray, kind: str) -> dict[str, Any]:
    """What the file says of itself: kind, version, arrays, values."""
    try:
        meta = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, kind, error) from error
    types = {"kind": str, "version": int, "arrays": list, "values": dict}
    for name, wanted in types.items():
        if not isinstance(meta, dict) or type(meta.get(name)) is not wanted:
            raise _damaged(path, kind, f"its {_META} has no {name}")
    if not all(isinstance(name, str) for name in meta["arrays"]):
        raise _damaged(path, kind, f"its {_META} names no arrays")
    return meta


def _damaged(path: Any, kind: str, reason: object) -> UserError:
    return UserError(
        f"{path} is damaged or no {kind} file ({reason}); copy it again or evaluate the run "
        "again to make a new one"
    )
