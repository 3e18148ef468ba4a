"""Lists of images to leave out: one relative path or row number a line, a reason after a tab."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from longtail_tf.datasets.index import UNUSED, Source
from longtail_tf.datasets.wording import plural
from longtail_tf.errors import UserError
from longtail_tf.text_files import read_text


def format_exclusions(keys_and_reasons: Iterable[tuple[str, str]]) -> str:
    """The text of an exclusion file; keys that hold a tab or line end are written as JSON."""
    lines = ["# longtail_tf: images to leave out, one a line; a reason may follow a tab\n"]
    for key, reason in keys_and_reasons:
        plain = key == key.strip() and key.isprintable() and key[:1] not in '#"'
        lines.append(f"{key if plain else json.dumps(key)}\t{' '.join(reason.split())}\n")
    return "".join(lines)


def read_exclusions(path: str) -> list[str]:
    """The keys in an exclusion file, in its order."""
    try:
        text = read_text(path, errors="surrogateescape")  # names of files may be no UTF-8
    except OSError as error:
        raise UserError(
            f"the exclusion list {path} cannot be read ({error.strerror}); "
            "give a file of paths or row numbers, one a line"
        ) from error
    keys = []
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.split("\t")[0].strip()
        if entry.startswith('"'):
            try:
                entry = str(json.loads(entry))
            except (ValueError, RecursionError):
                raise UserError(
                    f"{path}, line {number}, starts with a quote but is no JSON string; "
                    "write the path without quotes"
                ) from None
        elif entry.startswith("#"):
            continue
        if entry:
            keys.append(entry)
    return keys


def exclude(source: Source, path: str) -> Source:
    """The source without the images that the file at `path` lists."""
    keys = read_exclusions(path)
    found, known = source.store.find(keys)
    if len(keys) and not len(found):
        raise UserError(
            f"no entry of the exclusion list {path} is an image of {source.name}; the first is "
            f"{keys[0]!r} and images are named like {source.store.key(0)!r}"
        )
    split = source.split.copy()
    split[found] = UNUSED
    note = f"{plural(len(found), 'image')} left out as {path} lists"
    if not known.all():
        note += f"; {plural(int((~known).sum()), 'entry', 'entries')} name no image"
    return dataclasses.replace(source, split=split, notes=(*source.notes, note + "."))
