"""Class names as tables, reports, servers and terminals can all hold them."""

from __future__ import annotations

import dataclasses
import unicodedata

import numpy as np

from longtail_tf.datasets.index import Source
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError

_REFUSED = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control characters, surrogates, line ends


def normal(name: str) -> str:
    """The name in Unicode's composed form: a letter and its accent as one character.

    Keyboards give that; macOS gives file names in the other form, which looks the same.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fault(name: str) -> str:
    """Why a name cannot be that of a class; empty where it can."""
    if not name.strip():
        return "is empty"
    if name.isascii() and name.isprintable():
        return ""
    if any("\udc80" <= each <= "\udcff" for each in name):
        return "is no UTF-8"
    if any(unicodedata.category(each) in _REFUSED for each in name):
        return "holds a line break or control character"
    return ""


def with_plain_names(source: Source) -> Source:
    """The source with names that everything downstream can hold.

    Names that differ only in how Unicode composes a letter become one class.

    Raises:
      UserError: a name is empty, no UTF-8, or holds a line break or control character.
    """
    names = source.class_names
    if _are_plain(names):
        return source
    new_ids = np.empty(len(names), np.int32)
    ids: dict[str, int] = {}
    merged = []
    for i, name in enumerate(names):
        if reason := fault(name):
            raise _refusal(source, name, reason)
        if normal(name) in ids:
            merged.append(name)
        new_ids[i] = ids.setdefault(normal(name), len(ids))
    notes = source.notes
    if merged:
        notes += (f"Written in two ways in Unicode, and one class each: {listing(merged)}.",)
    return dataclasses.replace(
        source,
        class_names=StringTable.from_strings(ids),
        labels=new_ids[source.labels],
        notes=notes,
    )


def _are_plain(names: StringTable) -> bool:
    """Whether all names are printable ASCII and none is blank: at once, of a million."""
    data = names.data
    if len(data) and (data.min() < 0x20 or data.max() >= 0x7F):
        return False
    letters = np.concatenate([[0], np.cumsum(data != 0x20)])
    return bool((np.diff(letters[names.offsets.astype(np.int64)]) > 0).all())


def _refusal(source: Source, name: str, reason: str) -> UserError:
    return UserError(
        f"the data set {source.name} has a class whose name {reason} ({name!a}); give it another "
        "name"
    )
