"""The cached index of one shard: where its images lie and what their labels are."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import plural
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.npz_files import read_arrays

_FORMAT = 1
NO_LABEL = -1


class Row(NamedTuple):
    """One image of a shard."""

    offset: int
    length: int
    label: int
    text: bytes | None
    crc: int


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """Images of one shard.

    Attributes:
      offsets: uint64 [n] where each image starts in the file (its number, for ArrayRecord).
      lengths: uint32 [n] bytes of each image.
      labels: int32 [n] the integer label; -1 where there is none.
      text_ids: int32 [n] position of the class text in `texts`; -1 where there is none.
      texts: the different class texts in the shard.
      text_hashes: uint64 [len(texts)] a hash of each, the same in every shard.
      content: sha256 of the records' checksums.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    text_ids: np.ndarray
    texts: StringTable
    text_hashes: np.ndarray
    content: bytes

    def __len__(self) -> int:
        return len(self.offsets)


def shard_index_of(rows: Iterable[Row]) -> ShardIndex:
    """Gathers the rows of a shard, which are read once."""
    columns: tuple[list[int], ...] = ([], [], [], [], [])
    text_ids: dict[bytes, int] = {}
    for row in rows:
        text_id = -1 if row.text is None else text_ids.setdefault(row.text, len(text_ids))
        for column, value in zip(columns, (row.offset, row.length, row.label, text_id, row.crc)):
            column.append(value)
    types = (np.uint64, np.uint32, np.int32, np.int32, np.uint32)
    offsets, lengths, labels, ids, crcs = (np.array(c, t) for c, t in zip(columns, types))
    content = hashlib.sha256(crcs.astype("<u4").tobytes()).digest()
    texts = StringTable.from_strings(text_ids)
    return ShardIndex(offsets, lengths, labels, ids, texts, hash_texts(texts), content)


def hash_texts(texts: StringTable) -> np.ndarray:
    """A 64-bit hash of each text, uint64: a million different texts collide once in 40 million."""
    hashes = b"".join(
        hashlib.blake2b(texts.bytes_at(i), digest_size=8).digest() for i in range(len(texts))
    )
    return np.frombuffer(hashes, "<u8")


def save_shard_index(
    path: str, index: ShardIndex, *, status: os.stat_result, keys: Mapping[str, str]
) -> None:
    """Writes the index of a shard to `path`, with what tells later whether it still fits.

    Args:
      path: of the index.
      index: to write.
      status: of the shard.
      keys: the options that the index depends on.
    """
    facts = _facts(status, keys, len(index))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        facts=np.array(json.dumps(facts, sort_keys=True)),
        offsets=index.offsets,
        lengths=index.lengths,
        labels=index.labels,
        text_ids=index.text_ids,
        text_data=index.texts.data,
        text_offsets=index.texts.offsets,
        text_hashes=index.text_hashes,
        content=np.frombuffer(index.content, np.uint8),
    )
    write_atomically(path, buffer.getvalue())


def load_shard_index(
    path: str, *, shard: str, keys: Mapping[str, str], whole: bool = True
) -> ShardIndex | int | None:
    """The index at `path`; None where there is none that fits the shard as it is now.

    Args:
      path: of the index.
      shard: path of the shard.
      keys: the options that the index depends on.
      whole: False to get the number of rows only, without reading them.
    """
    status = os.stat(shard)
    try:
        arrays = read_arrays(path, None if whole else ("facts",))
        facts = json.loads(str(arrays["facts"]))
        rows = facts["rows"]
        if facts != _facts(status, keys, rows):
            logging.info("%s does not fit %s any more; it is built again", path, shard)
            return None
        if type(rows) is not int or rows < 0:
            raise ValueError(f"{rows!r} rows")
        return _index_of_arrays(arrays, rows) if whole else rows
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        logging.warning("%s cannot be read; it is built again", path)
        return None


def _index_of_arrays(arrays: Mapping[str, np.ndarray], rows: int) -> ShardIndex:
    """The index that a file holds; a ValueError where its arrays do not fit each other."""
    for name, kind in (("offsets", "u8"), ("lengths", "u4"), ("labels", "i4"), ("text_ids", "i4")):
        if arrays[name].dtype.str[1:] != kind or arrays[name].shape != (rows,):
            raise ValueError("columns of other types or lengths")
    data, offsets, hashes = (arrays[name] for name in ("text_data", "text_offsets", "text_hashes"))
    rise = np.diff(offsets.astype(np.int64))
    if offsets.ndim != 1 or not len(offsets) or rise.min(initial=0) < 0 or offsets[0]:
        raise ValueError("offsets of texts that do not rise")
    if offsets[-1] != len(data) or data.dtype != np.uint8 or hashes.shape != rise.shape:
        raise ValueError("texts of another length")
    text_ids = arrays["text_ids"]
    if rows and not -1 <= text_ids.min() <= text_ids.max() < len(rise):
        raise ValueError("positions of texts that are not there")
    return ShardIndex(
        arrays["offsets"],
        arrays["lengths"],
        arrays["labels"],
        text_ids,
        StringTable(data, offsets),
        hashes,
        arrays["content"].tobytes(),
    )


def _facts(status: os.stat_result, keys: Mapping[str, str], rows: object) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "keys": dict(keys),
        "mtime_ns": status.st_mtime_ns,
        "rows": rows,
        "size": status.st_size,
    }


Scan = Callable[[str], ShardIndex]


def index_paths(shard: str) -> tuple[str, str]:
    """Where the index of a shard may lie: hidden beside it, or in the user's cache folder."""
    folder, name = os.path.split(os.path.abspath(shard))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    place = hashlib.sha256(os.fsencode(os.path.join(folder, name))).hexdigest()[:16]
    return (
        os.path.join(folder, f".{name}.index.npz"),
        os.path.join(cache, "longtail_tf", f"{place}.{name}.index.npz"),
    )


@dataclasses.dataclass(frozen=True)
class CachedIndex:
    """A shard whose index is known to exist: its number of rows, and how to load it.

    Joining many shards needs all the row counts first, so that the rows can be put where they
    stay; holding all the indices instead would take twice the memory.
    """

    num_rows: int
    load: Callable[[], ShardIndex]


def kept_index(shard: str, *, keys: Mapping[str, str], scan: Scan) -> CachedIndex | None:
    """The index of a shard that was kept before; None where there is none that fits.

    Args:
      shard: path of the shard.
      keys: the options that the index depends on.
      scan: builds the index by reading the shard, should the kept one go away meanwhile.
    """
    for path in index_paths(shard):
        num_rows = load_shard_index(path, shard=shard, keys=keys, whole=False)
        if isinstance(num_rows, int):
            return CachedIndex(num_rows, lambda: _load(shard, keys, scan))
    return None


def make_index(shard: str, *, keys: Mapping[str, str], scan: Scan) -> CachedIndex:
    """The index of a shard by `scan(shard)`, and kept; arguments as for `kept_index`."""
    index = scan(shard)
    for path in index_paths(shard):
        try:
            save_shard_index(path, index, status=os.stat(shard), keys=keys)
        except OSError as error:
            logging.info("The index of %s cannot be kept as %s: %s", shard, path, error)
        else:
            return CachedIndex(len(index), lambda: _load(shard, keys, scan))
    logging.warning("The index of %s cannot be kept, so it is built at every start", shard)
    return CachedIndex(len(index), lambda: index)


def _load(shard: str, keys: Mapping[str, str], scan: Scan) -> ShardIndex:
    for path in index_paths(shard):
        index = load_shard_index(path, shard=shard, keys=keys)
        if isinstance(index, ShardIndex):
            return index
    return scan(shard)  # the file went away or the shard changed a moment ago


def checked_label(label: int | None, where: str) -> int:
    """A label that fits the index; `NO_LABEL` for None."""
    if label is None:
        return NO_LABEL
    if not 0 <= label < 2**31:
        raise UserError(
            f"{where} has the label {label}; give class ids from 0 to 2147483647 and leave "
            "unlabelled images out"
        )
    return label


_SECONDS_A_LINE = 5.0


def cached_shard_indices(
    paths: Sequence[str], *, keys: Mapping[str, str], scan: Scan, threads: int = 0
) -> list[CachedIndex]:
    """The index of every shard, in the order of `paths`.

    Where several shards are at fault, the error is that of the first of them in order, whatever
    the threads; indices made until then stay, so the next start goes on from there.

    Args:
      paths: the shards.
      keys: the options that an index depends on.
      scan: builds an index by reading a shard; called from several threads.
      threads: shards read at the same time; 0 is one for each processor.
    """
    # One after the other: reading a row count takes no time, and threads take memory.
    indices = [kept_index(path, keys=keys, scan=scan) for path in paths]
    missing = [i for i, index in enumerate(indices) if index is None]
    if missing:
        pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1)
        try:
            made = [pool.submit(make_index, paths[i], keys=keys, scan=scan) for i in missing]
            _tell_progress(made, [os.path.getsize(paths[i]) for i in missing])
            for i, index in zip(missing, made):
                indices[i] = index.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return [index for index in indices if index is not None]


def _tell_progress(
    made: Sequence[concurrent.futures.Future[CachedIndex]], sizes: Sequence[int]
) -> None:
    """Waits for all, or for the first fault, with a line now and then where that takes long."""
    total, start = sum(sizes), time.monotonic()
    logging.info(
        "Indexing %s (%s MB): once, the index is kept",
        plural(len(made), "shard"), f"{total / 1e6:,.0f}",
    )  # fmt: skip
    waiting = set(made)
    while waiting:
        _, waiting = concurrent.futures.wait(
            waiting, _SECONDS_A_LINE, concurrent.futures.FIRST_EXCEPTION
        )
        done = [future.done() for future in made]
        if any(future.exception() for future in made if future.done()):
            return
        read = sum(size for size, is_done in zip(sizes, done) if is_done)
        seconds = time.monotonic() - start
        if waiting and read:
            logging.info(
                "%d of %d shards indexed, %s of %s MB, %s MB/s, %s s left",
                sum(done), len(made), f"{read / 1e6:,.0f}", f"{total / 1e6:,.0f}",
                f"{read / 1e6 / seconds:,.0f}", f"{seconds * (total - read) / read:,.0f}",
            )  # fmt: skip
