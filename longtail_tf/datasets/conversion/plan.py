"""Writing the images of an index into TFRecord shards: which image goes where, and one shard.

What a shard holds depends on the index, the seed and the settings only, never on how many workers
write or in which order, so a conversion can stop anywhere and go on later.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import numpy as np

from longtail_tf.datasets import DatasetIndex, Split
from longtail_tf.datasets.conversion.image_files import (
    ImageFileError,
    encode_png,
    image_format,
    shrink_image,
)
from longtail_tf.datasets.shards.shard_index import (
    Row,
    index_paths,
    save_shard_index,
    shard_index_of,
)
from longtail_tf.datasets.shards.tf_example import encode_example, find_features
from longtail_tf.datasets.shards.tfrecord_file import FOOTER_BYTES, HEADER_BYTES, frame_records
from longtail_tf.datasets.sources.tfrecord import KEY_OPTIONS
from longtail_tf.errors import UserError
from longtail_tf.files import replacing

_KEYS = {name: option.default for name, option in KEY_OPTIONS.items()}
_SAMPLE, _CHUNK_IMAGES, _CHUNK_BYTES = 64, 64, 8 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to write: its file name, its split, and the rows that go into it, in order."""

    name: str
    split: str
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes shards of one index.

    Attributes:
      index: the data set.
      folder: where the shards go.
      resize_px: shorter side that larger images are shrunk to; 0 leaves every image as it is.
      jpeg_quality: of JPEG images that are shrunk.
    """

    index: DatasetIndex
    folder: str
    resize_px: int
    jpeg_quality: int

    def write(self, shard: Shard, count: Callable[[int], None]) -> None:
        """Writes a shard and its index, and tells `count` how many images are done.

        The shard gets its name when it is whole; until then it is a hidden file.
        """
        path = os.path.join(self.folder, shard.name)
        rows: list[Row] = []
        with replacing(path) as file:
            for records in self._batches(shard, count):
                start, framed = file.tell(), frame_records(records)
                rows += _index_rows(records, framed, start)
                file.write(framed)
            file.flush()
            # Before the shard has its name: whoever finds the shard finds its index too.
            save_shard_index(
                index_paths(path)[0],
                shard_index_of(rows),
                status=os.fstat(file.fileno()),
                keys=_KEYS,
            )

    def _batches(self, shard: Shard, count: Callable[[int], None]) -> Iterator[list[bytes]]:
        split = split_named(self.index, shard.split)
        records: list[bytes] = []
        pending = 0
        for begin in range(0, len(shard.rows), _CHUNK_IMAGES):
            rows = shard.rows[begin : begin + _CHUNK_IMAGES]
            for row, image in zip(rows.tolist(), split.read(rows)):
                records.append(self._record(split, row, image))
                pending += len(records[-1])
            count(len(rows))
            if pending >= _CHUNK_BYTES:
                yield records
                records, pending = [], 0
        if records:
            yield records

    def _record(self, split: Split, row: int, image: bytes | np.ndarray) -> bytes:
        try:
            encoded = encode_png(image) if isinstance(image, np.ndarray) else image
            if self.resize_px:
                encoded = shrink_image(
                    encoded, shorter_side_px=self.resize_px, jpeg_quality=self.jpeg_quality
                )
        except ImageFileError as error:
            raise UserError(
                f"{split.describe(row)} is no image that can be resized ({error}); list such "
                "images with `inspect --check --quarantine=FILE` and pass --exclude=FILE"
            ) from error
        label = int(split.labels[row])
        return encode_example(
            {
                "image/encoded": encoded,
                "image/format": image_format(encoded).encode(),
                "image/class/label": label,
                "image/class/text": self.index.class_names.bytes_at(label),
                "image/key": os.fsencode(split.key(row)),
            }
        )


def _index_rows(records: list[bytes], framed: bytes, start: int) -> Iterator[Row]:
    at = 0
    for record in records:
        features = find_features(record)
        image, text = features[b"image/encoded"], features[b"image/class/text"]
        crc_at = at + HEADER_BYTES + len(record)
        yield Row(
            offset=start + at + HEADER_BYTES + image.start,
            length=image.length,
            label=int(features[b"image/class/label"].number or 0),
            text=record[text.start : text.start + text.length],
            crc=int.from_bytes(framed[crc_at : crc_at + FOOTER_BYTES], "little"),
        )
        at = crc_at + FOOTER_BYTES


def split_named(index: DatasetIndex, name: str) -> Split:
    """A split of the index by its name; empty splits are None and have no shard."""
    split: Split = getattr(index, name)
    return split


def plan_shards(index: DatasetIndex, *, seed: int, shard_bytes: int) -> list[Shard]:
    """The shards of an index: rows of each split, shuffled and cut into equal parts.

    Args:
      index: the data set.
      seed: of the order of the images.
      shard_bytes: size to aim at, judged by a sample of the images.
    """
    shards = []
    for number, name in enumerate(("train", "val", "test")):
        split = getattr(index, name)
        if split is None or not len(split):
            continue
        order = np.random.Generator(np.random.PCG64([seed % 2**64, number]))
        rows = order.permutation(len(split)).astype(np.int64)
        total = _mean_bytes(split, rows[:_SAMPLE]) * len(split)
        parts = min(max(1, round(total / shard_bytes)), len(split))
        shards += [
            Shard(f"{name}-{i:05d}-of-{parts:05d}.tfrecord", name, part)
            for i, part in enumerate(np.array_split(rows, parts))
        ]
    return shards


def _mean_bytes(split: Split, rows: np.ndarray) -> float:
    # Pixels count as they are: PNG is rarely larger.
    return float(np.mean([len(i) if isinstance(i, bytes) else i.nbytes for i in split.read(rows)]))
