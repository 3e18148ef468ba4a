"""Converts any data set into TFRecord shards with an index, for fast random reading.

    python -m longtail_tf.convert --data=folder:photos --out=shards
    python -m longtail_tf.convert --data=csv:photos.csv --out=shards --resize_px=256
    python -m longtail_tf.train --data=tfrecord:shards ...

The shards have the training, validation and test images that training on --data itself would
have, under names such as train-00003-of-00012.tfrecord, as tf.Examples that every TensorFlow tool
reads. A conversion that was stopped goes on where it was when the same command is given again.
The shards are the same, byte for byte, whatever the number of workers.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import time
from typing import Any

from longtail_tf.datasets import DatasetIndex, load_index
from longtail_tf.datasets.conversion.folder import MANIFEST, claimed_folder
from longtail_tf.datasets.conversion.parallel_shards import write_in_processes
from longtail_tf.datasets.conversion.plan import Shard, ShardWriter, plan_shards
from longtail_tf.errors import UserError
from longtail_tf.files import write_json
from longtail_tf.settings import cli, setting
from longtail_tf.settings.terminal import plain, quoted

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Settings of `python -m longtail_tf.convert`."""

    data: str = setting("", "Data set to convert, as for training: folder:PATH, csv:PATH, ...")
    out: str = setting("", "Folder for the shards: new, empty, or of a stopped conversion.")
    exclude: str = setting("", "File that lists images to leave out, one path or row a line.")
    val_per_class: int = setting(
        20,
        "Where the set has no validation split, at most this many training images of each class "
        "are carved out for it; 0 carves none.",
        unit="images",
    )
    split_seed: int = setting(0, "Seed of the splits we cut ourselves.")
    seed: int = setting(0, "Seed of the order of the images in the shards.")
    resize_px: int = setting(
        0,
        "Shrink larger images until their shorter side is this long, and turn them upright; 0 "
        "copies every file as it is.",
        unit="px",
    )
    jpeg_quality: int = setting(92, "Quality of JPEG images that are shrunk, 1 to 100.")
    shard_megabytes: float = setting(128.0, "Size of a shard to aim at.", unit="MB")
    workers: int = setting(0, "Processes that write shards; 0 is one for each processor.")


@dataclasses.dataclass(frozen=True)
class ConversionResult:
    """What a conversion wrote: the folder, all its shards, and how many were there before."""

    folder: pathlib.Path
    shards: tuple[str, ...]
    already_there: int
    num_images: int


def run(config: ConvertConfig) -> ConversionResult:
    """Converts, or goes on with a stopped conversion."""
    index, shards = prepare(config)
    for note in index.notes:
        print(plain(note))
    folder = pathlib.Path(config.out)
    manifest = conversion_manifest(config, index, shards)
    with claimed_folder(folder, manifest):
        missing = [shard for shard in shards if not (folder / shard.name).exists()]
        if len(missing) < len(shards):
            print(f"{len(shards) - len(missing)} of {len(shards)} shards are there already.")
        _write(shard_writer(config, index), missing, workers=config.workers or os.cpu_count() or 1)
        write_json(folder / MANIFEST, {**manifest, "complete": True})
    num_images = sum(len(shard.rows) for shard in shards)
    print(
        f"{num_images:,} images of {index.num_classes:,} classes in {len(shards)} shards; "
        f"train with {quoted(f'--data=tfrecord:{config.out}')}"
    )
    names = tuple(shard.name for shard in shards)
    return ConversionResult(folder, names, len(shards) - len(missing), num_images)


def prepare(config: ConvertConfig) -> tuple[DatasetIndex, list[Shard]]:
    """The index to convert and the shards it is cut into, once the settings are checked."""
    _check(config)
    index = load_index(
        config.data,
        val_per_class=config.val_per_class,
        split_seed=config.split_seed,
        exclude=config.exclude,
    )
    shard_bytes = int(config.shard_megabytes * 1_000_000)
    return index, plan_shards(index, seed=config.seed, shard_bytes=shard_bytes)


def shard_writer(config: ConvertConfig, index: DatasetIndex) -> ShardWriter:
    """Writes shards as the settings say."""
    return ShardWriter(index, config.out, config.resize_px, config.jpeg_quality)


def conversion_manifest(
    config: ConvertConfig, index: DatasetIndex, shards: list[Shard]
) -> dict[str, Any]:
    """What decides the bytes of the shards; a folder goes on only where all of it is the same."""
    return {
        "format": _FORMAT,
        "name": index.name,
        "source_digest": index.digest,
        "seed": config.seed,
        "resize_px": config.resize_px,
        "jpeg_quality": config.jpeg_quality if config.resize_px else None,
        "shards": [shard.name for shard in shards],
        "classes": index.num_classes,
    }


def _check(config: ConvertConfig) -> None:
    if not config.out:
        raise UserError("no folder is given for the shards; pass --out=DIR")
    for name, low, high in (
        ("resize_px", 0, 1 << 16),
        ("jpeg_quality", 1, 100),
        ("workers", 0, 1024),
        ("shard_megabytes", 0.001, 1 << 20),
    ):
        value = getattr(config, name)
        if not low <= value <= high:
            raise UserError(f"--{name}={value} is out of range; give a number from {low} to {high}")


def _write(writer: ShardWriter, shards: list[Shard], *, workers: int) -> None:
    total = sum(len(shard.rows) for shard in shards)
    start = time.monotonic()
    for done in write_in_processes(writer, shards, workers=workers):
        seconds = max(time.monotonic() - start, 1e-9)
        rate = done / seconds
        left = f"{(total - done) / rate:,.0f} s left" if done else "starting"
        print(
            f"\r{done:,} of {total:,} images, {rate:,.0f} images/s, {left}   ",
            end="",
            file=sys.stderr,
            flush=True,
        )
    if total:
        print(file=sys.stderr)


def main() -> None:
    """The command line."""
    cli.launch(run, ConvertConfig, __doc__)


if __name__ == "__main__":
    main()
