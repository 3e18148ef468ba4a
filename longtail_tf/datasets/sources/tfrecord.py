"""`tfrecord:GLOB`: shards of tf.Example records, indexed once and then read at random."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from longtail_tf.datasets.index import Source
from longtail_tf.datasets.shards.record_store import OpenShards, RecordStore
from longtail_tf.datasets.shards.shard_files import missing_shards, shard_files, shard_splits
from longtail_tf.datasets.shards.shard_index import (
    Row,
    ShardIndex,
    cached_shard_indices,
    checked_label,
    shard_index_of,
)
from longtail_tf.datasets.shards.shard_source import join_shards
from longtail_tf.datasets.shards.tf_example import BadExampleError, find_features
from longtail_tf.datasets.shards.tfrecord_file import read_records
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError

KEY_OPTIONS: Mapping[str, Option] = {
    "image_key": Option("image/encoded"),
    "label_key": Option("image/class/label"),
    "text_key": Option("image/class/text"),
}
OPTIONS: Mapping[str, Option] = {
    **KEY_OPTIONS,
    "channels": Option("3", str, ("1", "3")),
    "split": Option("auto", str, ("auto", "train", "val", "test")),
}


def read(path: str, options: Mapping[str, Any]) -> Source:
    """Reads the indices of all shards that the glob `path` matches.

    The index of a shard lies hidden beside it, or in the user's cache folder where that is not
    writable. It is built at the first use by reading the shard once, which verifies its
    checksums, and again when the shard's size or time has changed.
    """
    paths = shard_files(path, suffix=".tfrecord")
    keys = {name: options[name] for name in KEY_OPTIONS}
    return source_of_shards(
        paths,
        shard_splits(paths, options["split"]),
        keys=keys,
        channels=int(options["channels"]),
        name=os.path.basename(os.path.dirname(os.path.abspath(paths[0]))),
    )


def source_of_shards(
    paths: Sequence[str], codes: np.ndarray, *, keys: Mapping[str, str], channels: int, name: str
) -> Source:
    """The source of TFRecord shards.

    Args:
      paths: the shards.
      codes: uint8 [len(paths)] the split of each.
      keys: `image_key`, `label_key` and `text_key`: names of the features.
      channels: 1 or 3.
      name: of the data set.
    """
    scan = functools.partial(scan_shard, keys=keys)
    joined = join_shards(cached_shard_indices(paths, keys=keys, scan=scan), paths)
    store = RecordStore(OpenShards(paths), joined.first_rows, joined.offsets, joined.lengths)
    return Source(
        name=name,
        class_names=joined.class_names,
        labels=joined.labels,
        split=np.repeat(codes, np.diff(joined.first_rows)),
        store=store,
        content=joined.content,
        image_shape=None,
        channels=channels,
        flip_is_valid=channels == 3,
        notes=missing_shards(paths),
    )


def scan_shard(path: str, *, keys: Mapping[str, str]) -> ShardIndex:
    """Reads a whole shard, verifies it, and gives its index."""
    return shard_index_of(_rows(path, keys))


def _rows(path: str, keys: Mapping[str, str]) -> Iterator[Row]:
    for number, (offset, record, crc) in enumerate(read_records(path)):
        where = f"record {number} of {path} (byte {offset:,})"
        start, length, label, text = parse_record(record, keys=keys, where=where)
        yield Row(offset + start, length, label, text, crc)


def parse_record(
    record: bytes, *, keys: Mapping[str, str], where: str
) -> tuple[int, int, int, bytes | None]:
    """(start of the image in the record, its length, label or -1, class text or None)."""
    try:
        features = find_features(record)
    except BadExampleError as error:
        raise UserError(
            f"{where} is no tf.Example ({error}); give shards of tf.Examples"
        ) from error
    image = features.get(keys["image_key"].encode())
    if image is None or image.start < 0:
        present = listing(sorted(name.decode("utf-8", "replace") for name in features), 8)
        raise UserError(
            f"{where} has no bytes under {keys['image_key']!r}, only {present or 'nothing'}; "
            "name the feature of the encoded image with ?image_key=NAME in the data spec"
        )
    label = features.get(keys["label_key"].encode())
    text = features.get(keys["text_key"].encode())
    if label is not None and label.number is None and label.start >= 0:
        label, text = None, label  # a label of bytes is a name
    name = None
    if text is not None and text.start >= 0:
        name = record[text.start : text.start + text.length]
    number = checked_label(None if label is None else label.number, where)
    return image.start, image.length, number, name
