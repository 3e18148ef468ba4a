"""Ways in which the content of a file is bad: bytes, text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

HUGE = 10**20  # no 64-bit number holds it
_NOISE = bytes((7 * i * i + 3 * i) % 251 for i in range(3000))

# Of any file.
BYTES: Mapping[str, Callable[[bytes], bytes]] = {
    "half": lambda good: good[: len(good) // 2],
    "one byte short": lambda good: good[:-1],
    "noise": lambda good: _NOISE,
    "zeros": lambda good: bytes(max(len(good), 16)),
    "noise behind": lambda good: good + _NOISE,
    "noise before": lambda good: _NOISE + good,
    "noise inside": lambda good: good[: len(good) // 2] + _NOISE + good[len(good) // 2 :],
    "twice": lambda good: good + good,
}

# Of any text; what stands here and works is as good as what it was.
TEXTS: Mapping[str, Callable[[bytes], bytes]] = {
    **{name: BYTES[name] for name in ("half", "noise", "zeros", "noise behind", "twice")},
    "Latin-1": lambda good: good.decode().encode("latin-1", "replace") + b"\n# \xe9\n",
    "UTF-8 with a mark": lambda good: b"\xef\xbb\xbf" + good,
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda good: good.decode().encode("utf-16-be"),
    "UTF-32": lambda good: good.decode().encode("utf-32"),
    "CRLF": lambda good: good.replace(b"\n", b"\r\n"),
    "CR": lambda good: good.replace(b"\n", b"\r"),
    "a NUL": lambda good: good[:10] + b"\0" + good[10:],
    "a line of 2 MB": lambda good: good + b"x" * (2 << 20) + b"\n",
    "blank lines": lambda good: b"\n \n\t\n" + good + b"\n\n",
}

JSON_TEXTS: Mapping[str, bytes] = {
    "a list": b"[]",
    "a full list": b'[{"a": 1}]',
    "null": b"null",
    "a number": b"3",
    "a text": b'"text"',
    "true": b"true",
    "an empty object": b"{}",
    "nested deep": b"[" * 100_000,
    "objects nested deep": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"format_version": ' + b"9" * 5000 + b"}",
    "NaN": b'{"format_version": NaN}',
    "two objects": b"{} {}",
    "a lone surrogate": b'{"format_version": 2, "settings": {"data": "\\ud800"}}',
}
WRONG_VALUES = (None, True, -1, 0, 1.5, HUGE, float("inf"), "text", "\ud800", [], [1], {}, {"a": 1})


def wrong_values(good: bytes, *, every: bool = False) -> Iterator[tuple[str, bytes]]:
    """A JSON object with one value of it of the wrong type, or missing: (what, text).

    Every value comes once with a wrong value in turn, or with `every` with each of them; each key
    is missing once.
    """
    content = json.loads(good)
    turn = 0
    for path in _paths(content):
        name = ".".join(map(str, path))
        wrong = WRONG_VALUES if every else (WRONG_VALUES[turn % len(WRONG_VALUES)],)
        turn += 1
        for value in wrong:
            if value == _at(content, path) and type(value) is type(_at(content, path)):
                continue
            text = json.dumps(_with(content, path, value))
            yield f"{name} = {_short(value)}", text.encode()
        if isinstance(path[-1], str):
            yield f"{name} missing", json.dumps(_without(content, path)).encode()


CSV_CELLS = ("", " ", "x", "-1", "1.5", "nan", "1e400", str(HUGE), '"', "a\nb", "é\0")


def wrong_tables(good: bytes) -> Iterator[tuple[str, bytes]]:
    """A CSV table with something wrong: (what, text)."""
    rows = list(csv.reader(io.StringIO(good.decode())))
    header, body = rows[0], rows[1:]
    yield "no header", _table(body)
    yield "a header only", _table([header])
    yield "a header twice", _table([header, *rows])
    yield "a row twice", _table([*rows, body[0]])
    yield "a long row", _table([header, body[0] + ["more"], *body[1:]])
    yield "a short row", _table([header, body[0][:1], *body[1:]])
    yield "an open quote", good + b'"'
    yield "a cell of 200 kB", _table([header, ["x" * 200_000, *body[0][1:]], *body[1:]])
    yield "semicolons", good.replace(b",", b";")
    yield "tabs", good.replace(b",", b"\t")
    for column, name in enumerate(header):
        yield f"no column {name}", _table([r[:column] + r[column + 1 :] for r in rows])
        twice = [*header[:column], header[column - 1], *header[column + 1 :]]
        yield f"{header[column - 1]} for {name}", _table([twice, *body])
        for cell in CSV_CELLS:
            changed = [*body[0][:column], cell, *body[0][column + 1 :]]
            yield f"{name} = {_short(cell)}", _table([header, changed, *body[1:]])


def _table(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 30 else f"{text[:27]}..."


def _paths(content: Any, above: tuple = ()) -> Iterator[tuple]:
    """The path of every value below `content`; of a list its first entry only."""
    entries: Any = ()
    if isinstance(content, dict):
        entries = content.items()
    elif isinstance(content, list) and content:
        entries = [(0, content[0])]
    for key, value in entries:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


def _with(content: Any, path: tuple, value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    _at(copy, path[:-1])[path[-1]] = value
    return copy


def _without(content: Any, path: tuple) -> Any:
    copy = json.loads(json.dumps(content))
    del _at(copy, path[:-1])[path[-1]]
    return copy
