"""From rows to batches: the two training streams, and every image once for evaluation.

    counter(start_step) -> sampler.batch(step) -> ImageReader.read -> augment(seed, stream, step)

Every batch is a pure function of (seed, step), so a run resumed at a step gets bitwise the
batches of an uninterrupted one: there is no iterator state, and no per-class dataset. Steps are
made in parallel and given out in order.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.augment import (
    HEAD_STREAM,
    WHOLE_STREAM,
    augment,
    cuts_windows,
    mix,
    parts_of,
    window_draws,
)
from longtail_tf.images.exit_guard import until_exit
from longtail_tf.images.kept_files import MAX_BAD_SHARE
from longtail_tf.images.reader import CACHE_BYTES, ImageReader
from longtail_tf.settings.choices import MIXING_AUGMENTATIONS


class Sampler(Protocol):
    """What a stream needs of `longtail_tf.sampling`."""

    batch_size: int

    def batch(self, step: int, *, shard: tuple[int, int] | None = None) -> np.ndarray:
        """Rows int64 [B] of a step, or of one of `count` equal slices of it."""


def training_streams(
    train: Split,
    *,
    head_sampler: Sampler | None = None,
    whole_sampler: Sampler | None = None,
    image_size: int,
    channels: int,
    head_augment: str = "none",
    whole_augment: str = "none",
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] | None = None,
    cache_bytes: int = CACHE_BYTES,
    max_bad_share: float = MAX_BAD_SHARE,
) -> tf.data.Dataset:
    """The endless zipped training streams.

    Args:
      train: the training split.
      head_sampler: rows of the head stream; None leaves the stream out.
      whole_sampler: rows of the whole stream; None leaves the stream out.
      image_size: side S of the images, px.
      channels: 1 or 3.
      head_augment: one of `augment_names.AUGMENTATIONS` or MIXING_AUGMENTATIONS.
      whole_augment: one of `augment_names.AUGMENTATIONS`.
      seed: seed of the augmentation (samplers have their own).
      start_step: the first step given out; where a resumed run goes on.
      shard: (index, count): this replica reads and makes only its slice of each batch.
      cache_bytes: memory for preprocessed images, and for the files of those of which windows are
        cut.
      max_bad_share: 0..1, stop when more of the images cannot be read.

    Returns:
      A dataset of dicts with "head" and "whole" where there is a sampler, each a tuple: images
      uint8 [B, S, S, C] in 0..255, labels int32 [B], rows int64 [B]. Under a mixing augmentation
      "head" has two more: mixed_labels int32 [B] and weight float32 [] (see `augment.mix`).

    Raises:
      UserError: no sampler, an unknown augmentation, a mixing one on the whole stream.
    """
    if head_sampler is None and whole_sampler is None:
        raise UserError(
            "training_streams got no sampler: give head_sampler, whole_sampler or both."
        )
    parts_of(head_augment)
    parts_of(whole_augment)
    if whole_augment in MIXING_AUGMENTATIONS:
        raise UserError(
            f"--whole_augment={whole_augment} mixes labels, which a metric loss cannot use: choose "
            "one without mixup and cutmix, or give it to --head_augment."
        )
    reader = ImageReader(
        train,
        image_size=image_size,
        channels=channels,
        cache_bytes=cache_bytes,
        max_bad_share=max_bad_share,
    )
    streams = {
        "head": (head_sampler, head_augment, HEAD_STREAM),
        "whole": (whole_sampler, whole_augment, WHOLE_STREAM),
    }
    datasets = {
        key: _stream(
            reader, train.labels, sampler=sampler, augmentation=augmentation, stream=stream,
            shape=(image_size, image_size, channels), seed=seed, start_step=start_step, shard=shard,
        )
        for key, (sampler, augmentation, stream) in streams.items()
        if sampler is not None
    }  # fmt: skip
    return in_order(tf.data.Dataset.zip(datasets))


def evaluation_batches(
    split: Split,
    *,
    image_size: int,
    channels: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    skip_bad: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
) -> tf.data.Dataset:
    """Every image once, in order, not augmented; the last batch holds the remainder.

    Args:
      split: the images.
      image_size: side S of the images, px.
      channels: 1 or 3.
      batch_size: images a batch, all but the last.
      rows: int [N] rows to give, in this order; None is all of the split.
      skip_bad: leave images out that cannot be read, with a counted warning.
      max_bad_share: 0..1, with `skip_bad`, stop when more of the images cannot be read.

    Returns:
      A dataset of (images uint8 [<= batch_size, S, S, C] in 0..255, labels int32), of known
      cardinality. Reading a bad image fails it; `plain_errors` names the file.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} for evaluation: set it to 1 or more.")
    count = len(split) if rows is None else len(rows)
    reader = ImageReader(
        split,
        image_size=image_size,
        channels=channels,
        cache_bytes=0,
        max_bad_share=max_bad_share,
    )

    def read(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = int(batch) * batch_size
        chosen = np.arange(start, min(count, start + batch_size))
        chosen = chosen if rows is None else np.asarray(rows)[chosen]
        images, chosen = reader.read_good(chosen) if skip_bad else reader.read(chosen)
        return images, split.labels[chosen].astype(np.int32)

    empty = np.zeros((0, image_size, image_size, channels), np.uint8), np.zeros(0, np.int32)
    guarded = until_exit(read, afterwards=empty)

    def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(guarded, [batch], (tf.uint8, tf.int32))
        images = tf.ensure_shape(images, [None, image_size, image_size, channels])
        return images, tf.ensure_shape(labels, [None])

    batches = tf.data.Dataset.range(-(-count // batch_size))
    return in_order(batches.map(load, num_parallel_calls=tf.data.AUTOTUNE))


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turns a UserError that TensorFlow wrapped on its way out of a dataset back into itself."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"UserError: ([^\n]+)", str(error))
        if found is None:
            raise
        raise UserError(found[1]) from error


def _stream(
    reader: ImageReader,
    all_labels: np.ndarray,
    *,
    sampler: Sampler,
    augmentation: str,
    stream: int,
    shape: tuple[int, int, int],
    seed: int,
    start_step: int,
    shard: tuple[int, int] | None,
) -> tf.data.Dataset:
    """One endless training stream of (images, labels, rows[, mixed_labels, weight])."""
    replica, replicas = shard or (0, 1)
    batch_size = sampler.batch_size // replicas
    mixes = augmentation in MIXING_AUGMENTATIONS

    # A reader that need not give its images as they are decodes or resizes the window alone.
    cuts = cuts_windows(augmentation) and not reader.gives_ready_images()

    def read(step: np.ndarray, *draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sharded: dict[str, Any] = {} if shard is None else {"shard": shard}
        rows = sampler.batch(int(step), **sharded)
        images, rows = reader.read(
            rows,
            window_draws=draws[0] if draws else None,
            replacement_key=(seed, stream, int(step)),
            first_slot=replica * batch_size,
        )
        return images, all_labels[rows].astype(np.int32), rows.astype(np.int64)

    blank = (
        np.zeros((batch_size, *shape), np.uint8),
        np.zeros(batch_size, np.int32),
        np.zeros(batch_size, np.int64),
    )
    guarded = until_exit(read, afterwards=blank)

    def make(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        draws: list[tf.Tensor] = []
        if cuts:
            draws = [
                window_draws(
                    seed=seed, stream=stream, step=step, batch_size=batch_size, shard=shard
                )
            ]
        images, labels, rows = tf.numpy_function(
            guarded, [step, *draws], (tf.uint8, tf.int32, tf.int64)
        )
        images = tf.ensure_shape(images, [batch_size, *shape])
        labels = tf.ensure_shape(labels, [batch_size])
        rows = tf.ensure_shape(rows, [batch_size])
        images = augment(
            images, name=augmentation, seed=seed, stream=stream, step=step, shard=shard,
            windows_are_cut=cuts,
        )  # fmt: skip
        if not mixes:
            return images, labels, rows
        images, mixed_labels, weight = mix(images, labels, name=augmentation, seed=seed, step=step)
        return images, labels, rows, mixed_labels, weight

    return tf.data.Dataset.counter(start_step).map(make, num_parallel_calls=tf.data.AUTOTUNE)


def in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Elements prefetched, in their order, on threads of the dataset's own."""
    options = tf.data.Options()
    options.deterministic = True
    # The reader calls TensorFlow from inside a dataset's thread: with threads of their own, waiting
    # readers never hold those that the decoding or the training step needs.
    options.threading.private_threadpool_size = 0
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
