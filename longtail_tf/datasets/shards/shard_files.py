"""Which files a glob of shards names, and which split each belongs to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

import numpy as np

from longtail_tf.datasets.index import SPLIT_NAMES, TRAIN, split_code
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError


def shard_files(pattern: str, *, suffix: str) -> list[str]:
    """The files that a glob matches, sorted; for a folder, its files with `suffix` in the name."""
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), f"*{suffix}*")
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(f"no file matches {pattern}; give a glob such as 'DIR/*{suffix}*'")
    return paths


def shard_splits(paths: list[str], split: str) -> np.ndarray:
    """The split code of each shard, uint8 [len(paths)].

    Args:
      paths: shard files.
      split: `train`, `val` or `test` for all of them, or `auto`: each shard's from the words in
        its name, or else its folder's. Where no name has such a word, all are training shards.
    """
    if split != "auto":
        return np.full(len(paths), SPLIT_NAMES.index(split), np.uint8)
    codes = [_code_of(path) for path in paths]
    if all(code is None for code in codes):
        return np.full(len(paths), TRAIN, np.uint8)
    unknown = [path for path, code in zip(paths, codes) if code is None]
    if unknown:
        raise UserError(
            f"the name of {listing(unknown, 2)} does not say which split it belongs to, but other "
            "shards say so; give each a word train, val or test, or add ?split=NAME to the spec"
        )
    return np.array(codes, np.uint8)


def _code_of(path: str) -> int | None:
    folder, name = os.path.split(os.path.abspath(path))
    codes = {split_code(word) for word in re.split(r"[^A-Za-z]+", name)} - {None}
    if len(codes) > 1:
        raise UserError(
            f"the name of {path} names more than one split; rename it, or add ?split=NAME to "
            "the data spec"
        )
    # Of a folder only the whole name counts: `my-test-data` says nothing about its shards.
    return codes.pop() if codes else split_code(os.path.basename(folder))


def relative_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The paths relative to the folder that holds them all, with forward slashes."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    top = os.path.commonpath(folders) if folders else ""
    return tuple(os.path.relpath(path, top).replace(os.sep, "/") for path in paths)


def find_records(
    keys: Sequence[str], *, names: Sequence[str], first_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 of the records with one of the keys `shard:record number`, which keys are known).

    Args:
      keys: keys as the stores of shards give them.
      names: relative names of the shards.
      first_rows: int64 [shards + 1] the row at which each shard starts, and the row count.
    """
    shards = {name: i for i, name in enumerate(names)}
    rows = np.full(len(keys), -1, np.int64)
    for i, key in enumerate(keys):
        name, _, record = key.rpartition(":")
        if name in shards and record.isdecimal() and len(record) < 19:
            row = int(first_rows[shards[name]]) + int(record)
            if row < first_rows[shards[name] + 1]:
                rows[i] = row
    known = rows >= 0
    return np.unique(rows[known]), known


def missing_shards(paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each set of shards named `x-00003-of-00012` that is not whole."""
    sets: dict[tuple[str, str, int], set[int]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        match = re.match(r"(.*?)-(\d+)-of-(\d+)", name)
        if match:
            key = (folder, match.group(1), int(match.group(3)))
            sets.setdefault(key, set()).add(int(match.group(2)))
    return tuple(
        f"Only {len(numbers)} of {total} {name} shards are there or match the pattern: "
        "the others are not used."
        for (_, name, total), numbers in sets.items()
        if len(numbers) < total
    )
