"""Text, JSON and CSV read whole: in UTF-8 whatever the locale, and refused in words.

UTF-16 and UTF-32 are understood by their byte-order mark, which some editors and spreadsheets
write.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from longtail_tf.errors import UserError
from longtail_tf.files import Path, open_file, read_bytes

MOST_TEXT_BYTES = 256 << 20  # a million class names take 30 MB
# Longest first: UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path, *, most_bytes: int = MOST_TEXT_BYTES, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or by its byte-order mark; line ends become line feeds.

    Raises:
      UserError: it is no such text.
      OSError: as `open_file`.
    """
    raw = read_bytes(path, most_bytes=most_bytes)
    encoding = "utf-8"
    for mark, marked in _MARKS:
        if raw.startswith(mark):
            raw, encoding = raw[len(mark) :], marked
            break
    try:
        text = raw.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{os.fspath(path)} is no {encoding.upper()} text (byte {error.start:,}: "
            f"{error.reason}): save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_text(path: Path) -> TextIO:
    """A text file to read line by line, with its line ends as they are (for the csv module).

    Raises:
      OSError: as `open_file`. Reading raises UnicodeDecodeError where the text is no UTF-8.
    """
    file = open_file(path)
    start = file.read(len(codecs.BOM_UTF32_LE))
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _MARKS if start.startswith(mark)), (b"", "utf-8")
    )
    file.seek(len(mark))
    return io.TextIOWrapper(file, encoding=encoding, newline="")


def read_json(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: it is no JSON, or no object.
      OSError: as `open_file`.
    """
    text = read_text(path, most_bytes=most_bytes)
    try:
        content = json.loads(text)
    # ValueError: also a number of thousands of digits. RecursionError: nested too deep.
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, f"it holds {_json_kind(content)}, an object in braces was expected")
    return content


def csv_rows(path: Path, columns: Iterable[str] = ()) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV file with a header line, as text by column.

    Args:
      path: the file.
      columns: names that the header must hold.

    Raises:
      UserError: it is no such table; a row has more or fewer cells than the header.
      OSError: as `open_file`.
    """
    # Before Python 3.11 the reader refuses a NUL.
    text = read_text(path).replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise damaged(path, f"it has no column {missing[0]!r}")
        for row in reader:
            if None in row or None in row.values():
                raise damaged(path, f"line {reader.line_num} has other columns than the header")
            yield row
    except csv.Error as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> UserError:
    """The sentence on a file of ours that holds something else than was written."""
    return UserError(f"{os.fspath(path)} is damaged ({reason}): restore it from a copy.")


def _json_kind(content: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(content), "a number")


def first_line(error: Exception) -> str:
    """What an error says, on one line; libraries append pages."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
