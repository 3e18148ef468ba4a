"""One source from the indices of many shards: classes, labels and places over all of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from longtail_tf.datasets.shards.shard_classes import ShardClasses
from longtail_tf.datasets.shards.shard_index import CachedIndex
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedShards:
    """The images of all shards, shard after shard.

    Attributes:
      first_rows: int64 [shards + 1] the row at which each shard starts, and the row count.
      offsets: uint64 [N] where each image starts in its shard.
      lengths: uint32 [N] bytes of each image.
      class_names: C names.
      labels: int32 [N] position in `class_names`.
      content: digest of the content of all shards in order.
    """

    first_rows: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    class_names: StringTable
    labels: np.ndarray
    content: bytes


def join_shards(indices: Sequence[CachedIndex], paths: Sequence[str]) -> JoinedShards:
    """Joins the indices of shards; each is loaded once, and only one lies in memory at a time.

    Integer labels decide the class and its order, class texts name it. Where there are only
    texts, classes are ordered by name; where there are only integers, those are the names.

    Args:
      indices: one index a shard.
      paths: the shards, for messages.
    """
    first_rows = np.cumsum([0, *(index.num_rows for index in indices)], dtype=np.int64)
    num_rows = int(first_rows[-1])
    if not num_rows:
        raise UserError(f"{paths[0]} and all other shards have no record; give shards of images")
    offsets, lengths = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint32)
    labels, content, classes = np.empty(num_rows, np.int32), hashlib.sha256(), ShardClasses()
    for cached, path, begin in zip(indices, paths, first_rows.tolist()):
        index = cached.load()
        if len(index) != cached.num_rows:
            raise UserError(f"{path} changed while its index was read; start again")
        rows = slice(begin, begin + len(index))
        offsets[rows], lengths[rows] = index.offsets, index.lengths
        labels[rows] = classes.add(index, path)
        content.update(index.content)
    class_names, positions = classes.finish()
    for begin, end in zip(first_rows[:-1].tolist(), first_rows[1:].tolist()):
        labels[begin:end] = positions[labels[begin:end]]
    return JoinedShards(first_rows, offsets, lengths, class_names, labels, content.digest())
