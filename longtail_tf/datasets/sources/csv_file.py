"""`csv:PATH`: a table of image paths, labels and, where there, splits."""

from __future__ import annotations

import array
import csv
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.file_store import FileStore
from longtail_tf.datasets.index import TRAIN, UNUSED, Source, split_code, times_digest
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing, plural
from longtail_tf.errors import UserError
from longtail_tf.text_files import open_text

_FAULTS_NAMED = 5
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
OPTIONS: Mapping[str, Option] = {
    "channels": Option("3", str, ("1", "3")),
    "path_column": Option("path"),
    "label_column": Option("label"),
    "split_column": Option("split"),
}


def read(path: str, options: Mapping[str, Any]) -> Source:
    """Reads a table with a header line; paths are relative to the table's own folder.

    Comma, semicolon and tab are understood as separators. Labels are class names; where all of
    them are numbers they must be whole and not negative, and classes are ordered as numbers.
    """
    root = os.path.dirname(path) or "."
    rows = _Rows(root)
    try:
        with open_text(path) as file:
            _read_rows(file, path, options, rows)
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; give the path of a CSV file with a header line"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start} of a block: {error.reason}); "
            "save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file ({error}); save it again as CSV") from error
    if not len(rows.labels):
        raise UserError(f"{path} has a header but no rows; add one line for each image")
    class_names, labels = _order_classes(path, rows)
    split = np.frombuffer(rows.splits, np.uint8).copy()
    store = FileStore(
        root=root,
        folders=StringTable.from_strings([]),
        folder_ids=None,
        names=StringTable.from_strings(rows.take_paths()),
        sizes=np.frombuffer(rows.sizes, np.int64),
        times=times_digest(rows.times),
    )
    again = _rows_again(store.names, labels, split)
    split[again] = UNUSED
    channels = int(options["channels"])
    return Source(
        name=os.path.splitext(os.path.basename(path))[0],
        class_names=class_names,
        labels=labels,
        split=split,
        store=store,
        content=store.digest(),
        image_shape=None,
        channels=channels,
        flip_is_valid=channels == 3,
        notes=(f"{plural(len(again), 'row')} of {path} list an image again and count once.",)
        if len(again)
        else (),
    )


def _rows_again(names: StringTable, labels: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Rows with the path, label and split of a row before them, int64."""
    # By hash first: ten million paths would not fit as a set.
    hashes = np.fromiter((hash(names.bytes_at(row)) for row in range(len(names))), np.int64)
    order = np.lexsort((split, labels, hashes))
    alike = np.flatnonzero(
        (np.diff(hashes[order]) == 0) & (np.diff(labels[order]) == 0) & (np.diff(split[order]) == 0)
    )
    pairs = ((int(order[i]), int(order[i + 1])) for i in alike)
    return np.array(
        [max(pair) for pair in pairs if names.bytes_at(pair[0]) == names.bytes_at(pair[1])],
        np.int64,
    )


class _Rows:
    """The rows of the table gathered into arrays."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.ids: dict[str, int] = {}
        self.lines = array.array("i")
        self.labels, self.splits, self.sizes = array.array("i"), bytearray(), array.array("q")
        self.times = array.array("q")
        self._paths = bytearray()

    def add(
        self, path: str, label: str, split: int, status: os.stat_result | None, line: int
    ) -> None:
        label_id = self.ids.setdefault(label, len(self.ids))
        self.lines.append(line)
        self.labels.append(label_id)
        self.splits.append(split)
        self.sizes.append(status.st_size if status else 0)
        self.times.append(status.st_mtime_ns if status else 0)
        self._paths += path.encode("utf-8", "surrogateescape") + b"\0"

    def take_paths(self) -> Iterator[bytes]:
        """The paths one by one; they are given up as they are read."""
        paths, self._paths = bytes(self._paths), bytearray()
        begin = 0
        for _ in range(len(self.labels)):
            end = paths.index(b"\0", begin)
            yield paths[begin:end]
            begin = end + 1


def _read_rows(file: Any, path: str, options: Mapping[str, Any], rows: _Rows) -> None:
    header_line = file.readline()
    delimiter = max(",;\t", key=header_line.count)
    header = next(csv.reader([header_line], delimiter=delimiter), [])
    columns = {name.strip(): i for i, name in enumerate(header)}
    for option in ("path_column", "label_column"):
        if options[option] not in columns:
            if not header_line.strip():
                raise UserError(f"{path} is empty; its first line must name the columns path,label")
            raise UserError(
                f"{path}, line 1, has no column {options[option]!r}, only {listing(header)}; "
                f"rename a column or add ?{option}=NAME to the data spec"
            )
    twice = [name for name in columns if [title.strip() for title in header].count(name) > 1]
    if set(twice) & {options[option] for option in ("path_column", "label_column", "split_column")}:
        raise UserError(
            f"{path}, line 1, names the column {twice[0]!r} twice; rename one, so that it is clear "
            "which is meant"
        )
    path_at, label_at = columns[options["path_column"]], columns[options["label_column"]]
    split_at = columns.get(options["split_column"], -1)
    faults = _Faults(path)
    reader = csv.reader(file, delimiter=delimiter)
    for fields in reader:
        if not fields:
            continue
        line = reader.line_num + 1
        if len(fields) != len(header):
            faults.add(
                line,
                f"has {len(fields)} columns and the header {len(header)}",
                "put quotes around text that holds the separator",
            )
            continue
        label = unicodedata.normalize("NFC", fields[label_at].strip())
        name = fields[path_at].strip()
        split = split_code(fields[split_at]) if split_at >= 0 else TRAIN
        if not label or not name:
            faults.add(
                line, f"has no {'path' if label else 'label'}", "fill it in or delete the line"
            )
        elif _CONTROL.search(label + name):
            faults.add(
                line,
                "ends a path or label that holds a line break or control character",
                "look for a quote that is not closed",
            )
        elif split is None:
            faults.add(line, f"has the split {fields[split_at]!r}", "use train, val or test")
        else:
            rows.add(name, label, split, _status(rows.root, name, line, faults), line)
    faults.refuse()


class _Faults:
    """The bad lines of a table: all are counted, the first are named."""

    def __init__(self, path: str) -> None:
        self._path, self._count = path, 0
        self._first: list[tuple[int, str, str]] = []

    def add(self, line: int, fault: str, remedy: str) -> None:
        self._count += 1
        if len(self._first) < _FAULTS_NAMED:
            self._first.append((line, fault, remedy))

    def refuse(self) -> None:
        """Raises one sentence over all of them, if there are any."""
        if not self._count:
            return
        remedies = "; ".join(dict.fromkeys(remedy for _, _, remedy in self._first))
        if self._count == 1:
            line, fault, _ = self._first[0]
            raise UserError(f"{self._path}, line {line}, {fault}; {remedies}")
        named = ", ".join(f"line {line} {fault}" for line, fault, _ in self._first)
        rest = self._count - len(self._first)
        more = f", and {rest:,} more" if rest else ""
        raise UserError(f"{self._path} has {self._count:,} bad lines: {named}{more}; {remedies}")


def _status(root: str, name: str, line: int, faults: _Faults) -> os.stat_result | None:
    try:
        status = os.stat(os.path.join(root, name))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        faults.add(
            line,
            f"names the file {name}, which cannot be read from {root} ({reason})",
            "give paths relative to the CSV file",
        )
        return None
    if not stat.S_ISREG(status.st_mode):
        faults.add(line, f"names {name}, which is no file", "give the path of an image")
    return status


def _order_classes(path: str, rows: _Rows) -> tuple[StringTable, np.ndarray]:
    names = list(rows.ids)
    if not all(map(_is_number, names)):
        order = sorted(range(len(names)), key=names.__getitem__)
    else:
        values = [_value(name) for name in names]
        _check_numbers(path, rows, names, values)
        order = sorted(range(len(names)), key=values.__getitem__)
    new_ids = np.empty(len(names), np.int32)
    new_ids[order] = np.arange(len(names), dtype=np.int32)
    labels = new_ids[np.frombuffer(rows.labels, np.int32)]
    return StringTable.from_strings(names[i] for i in order), labels


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return "_" not in name  # which Python takes for a number, and nobody else


def _value(name: str) -> float:
    """The number a label stands for; exact for whole numbers of any length."""
    try:
        return int(name)
    except ValueError:
        value = float(name)
        return int(value) if value.is_integer() else value


def _check_numbers(path: str, rows: _Rows, names: list[str], values: list[float]) -> None:
    """Refuses numbers that are no class ids, and one number written in several ways."""
    ids = np.frombuffer(rows.labels, np.int32)
    faults = _Faults(path)
    wrong = [value < 0 or isinstance(value, float) for value in values]
    for row in np.flatnonzero(np.array(wrong)[ids]).tolist():
        faults.add(
            rows.lines[row],
            f"has the label {names[ids[row]]}, but all labels are numbers",
            "give whole numbers from 0, or names, and leave unlabelled images out",
        )
    faults.refuse()
    first: dict[float, int] = {}
    for i, value in enumerate(values):
        other = first.setdefault(value, i)
        if other == i:
            continue
        here, there = (int(np.argmax(ids == each)) for each in (i, other))
        faults.add(
            rows.lines[here],
            f"has the label {names[i]} and line {rows.lines[there]} the label {names[other]}, "
            "which are one number",
            "write each number in one way, or put a letter before those that are different codes",
        )
    faults.refuse()
