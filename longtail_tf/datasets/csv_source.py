"""`csv:PATH`: a table of image paths, labels and, where there, splits."""

from __future__ import annotations

import array
import csv
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.file_store import FileStore
from longtail_tf.datasets.index import TRAIN, Source, split_code
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError

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
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}; give the path of a CSV file with a header line")
    root = os.path.dirname(path) or "."
    rows = _Rows(root)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            _read_rows(file, path, options, rows)
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
    store = FileStore(
        root=root,
        folders=StringTable.from_strings([]),
        folder_ids=None,
        names=StringTable.from_strings(rows.take_paths()),
        sizes=np.frombuffer(rows.sizes, np.int64),
    )
    channels = int(options["channels"])
    return Source(
        name=os.path.splitext(os.path.basename(path))[0],
        class_names=class_names,
        labels=labels,
        split=np.frombuffer(rows.splits, np.uint8),
        store=store,
        content=store.digest(),
        image_shape=None,
        channels=channels,
        flip_is_valid=channels == 3,
    )


class _Rows:
    """The rows of the table gathered into arrays."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.ids: dict[str, int] = {}
        self.first_lines = array.array("q")
        self.labels, self.splits, self.sizes = array.array("i"), bytearray(), array.array("q")
        self._paths = bytearray()

    def add(self, path: str, label: str, split: int, size: int, line: int) -> None:
        label_id = self.ids.setdefault(label, len(self.ids))
        if label_id == len(self.first_lines):
            self.first_lines.append(line)
        self.labels.append(label_id)
        self.splits.append(split)
        self.sizes.append(size)
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
    path_at, label_at = columns[options["path_column"]], columns[options["label_column"]]
    split_at = columns.get(options["split_column"], -1)
    reader = csv.reader(file, delimiter=delimiter)
    for fields in reader:
        if not fields:
            continue
        where = f"{path}, line {reader.line_num + 1},"
        if len(fields) != len(header):
            raise UserError(
                f"{where} has {len(fields)} columns and the header {len(header)}; "
                "put quotes around text that holds the separator"
            )
        label, name = fields[label_at].strip(), fields[path_at].strip()
        if not label or not name or "\0" in name:
            raise UserError(
                f"{where} has no {'path' if label else 'label'}; fill it in or delete the line"
            )
        split = split_code(fields[split_at]) if split_at >= 0 else TRAIN
        if split is None:
            raise UserError(f"{where} has the split {fields[split_at]!r}; use train, val or test")
        rows.add(name, label, split, _file_size(rows.root, name, where), reader.line_num + 1)


def _file_size(root: str, name: str, where: str) -> int:
    try:
        status = os.stat(os.path.join(root, name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{where} names the file {name}, which cannot be read from {root} "
            f"({getattr(error, 'strerror', None) or error}); give paths relative to the CSV file"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{where} names {name}, which is no file; give the path of an image")
    return status.st_size


def _order_classes(path: str, rows: _Rows) -> tuple[StringTable, np.ndarray]:
    names = list(rows.ids)
    try:
        values = [float(name) for name in names]
    except ValueError:
        order = sorted(range(len(names)), key=names.__getitem__)
    else:
        for name, value, line in zip(names, values, rows.first_lines):
            if not value.is_integer() or value < 0:
                raise UserError(
                    f"{path}, line {line}, has the label {name}, but all labels are numbers; "
                    "give whole numbers from 0, or names, and leave unlabelled images out"
                )
        order = sorted(range(len(names)), key=values.__getitem__)
    new_ids = np.empty(len(names), np.int32)
    new_ids[order] = np.arange(len(names), dtype=np.int32)
    labels = new_ids[np.frombuffer(rows.labels, np.int32)]
    return StringTable.from_strings(names[i] for i in order), labels
