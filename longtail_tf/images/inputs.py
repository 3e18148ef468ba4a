"""What goes into the network that is trained: pixels, or cached outputs of a frozen trunk.

Both give the same three things: the endless training streams, every training or validation image
once, and class-balanced batches for the batch-norm refresh. The loop and the evaluation need not
know which it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.images.augment import HEAD_STREAM, WHOLE_STREAM
from longtail_tf.images.exit_guard import until_exit
from longtail_tf.images.pipeline import Sampler, evaluation_batches, in_order, training_streams
from longtail_tf.images.trunk_cache import TrunkCache

Batches = Iterable[tuple[Any, Any]]


class Inputs(Protocol):
    """Where a training gets its batches from."""

    dtype: str  # of what goes into the network

    def streams(
        self,
        *,
        head: Sampler | None,
        whole: Sampler | None,
        start_step: int,
        shard: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """Endless batches {"head": ..., "whole": ...} of (inputs, labels, source rows)."""

    def plain_batches(
        self, split: str, *, batch_size: int, rows: np.ndarray | None = None
    ) -> Batches:
        """Images of "train" or "val" as they are, once, in order: (inputs, labels)."""

    def plain_streams(self, sampler: Sampler, *, seed: int) -> tf.data.Dataset:
        """Endless batches of (inputs, labels, rows) as they are, drawn by `sampler`."""


class PixelInputs:
    """Images, read and augmented when they are drawn."""

    dtype = "uint8"

    def __init__(
        self,
        index: DatasetIndex,
        *,
        image_size: int,
        head_augment: str,
        whole_augment: str,
        seed: int,
        cache_bytes: int,
        max_bad_share: float,
    ) -> None:
        """Args are those of `images.pipeline.training_streams`."""
        self._index = index
        self._pixels: dict[str, Any] = {"image_size": image_size, "channels": index.channels}
        self._augment: dict[str, Any] = {
            "head_augment": head_augment,
            "whole_augment": whole_augment,
        }
        self._seed, self._cache_bytes, self._max_bad_share = seed, cache_bytes, max_bad_share

    def streams(
        self,
        *,
        head: Sampler | None,
        whole: Sampler | None,
        start_step: int,
        shard: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """See `Inputs`."""
        return training_streams(
            self._index.train,
            head_sampler=head,
            whole_sampler=whole,
            seed=self._seed,
            start_step=start_step,
            shard=shard,
            cache_bytes=self._cache_bytes,
            max_bad_share=self._max_bad_share,
            **self._pixels,
            **self._augment,
        )

    def plain_batches(
        self, split: str, *, batch_size: int, rows: np.ndarray | None = None
    ) -> Batches:
        """See `Inputs`; images that cannot be read are left out, up to the allowed share."""
        return evaluation_batches(
            getattr(self._index, split),
            batch_size=batch_size,
            rows=rows,
            skip_bad=True,
            max_bad_share=self._max_bad_share,
            **self._pixels,
        )

    def plain_streams(self, sampler: Sampler, *, seed: int) -> tf.data.Dataset:
        """See `Inputs`."""
        streams = training_streams(
            self._index.train,
            whole_sampler=sampler,
            seed=seed,
            max_bad_share=self._max_bad_share,
            **self._pixels,
        )
        return streams.map(lambda batch: batch["whole"])


class TrunkInputs:
    """Cached outputs of a frozen trunk: an image is drawn, then one of its views."""

    dtype = "float16"

    def __init__(self, caches: dict[str, TrunkCache], *, seed: int) -> None:
        """Args:
        caches: "train", with views, and "val" where there are validation images.
        seed: chooses the views.
        """
        self.caches, self._seed = caches, seed
        self.seconds_an_image = 0.0  # through the trunk, where that was measured

    def streams(
        self,
        *,
        head: Sampler | None,
        whole: Sampler | None,
        start_step: int,
        shard: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """See `Inputs`; views of one image have one source row, so they are no pair."""
        samplers = {"head": (head, HEAD_STREAM), "whole": (whole, WHOLE_STREAM)}
        datasets = {
            name: self._stream(
                sampler, stream=stream, seed=self._seed, start_step=start_step, shard=shard
            )
            for name, (sampler, stream) in samplers.items()
            if sampler is not None
        }
        if not datasets:
            raise UserError("the training has no stream: give a head rule, a metric loss, or both.")
        return in_order(tf.data.Dataset.zip(datasets))

    def plain_batches(
        self, split: str, *, batch_size: int, rows: np.ndarray | None = None
    ) -> Batches:
        """See `Inputs`."""
        return self.caches[split].plain_batches(batch_size, rows)

    def plain_streams(self, sampler: Sampler, *, seed: int) -> tf.data.Dataset:
        """See `Inputs`."""
        stream = self._stream(
            sampler, stream=WHOLE_STREAM, seed=seed, start_step=0, shard=None, plain=True
        )
        return in_order(stream)

    def _stream(
        self,
        sampler: Sampler,
        *,
        stream: int,
        seed: int,
        start_step: int,
        shard: tuple[int, int] | None,
        plain: bool = False,
    ) -> tf.data.Dataset:
        cache = self.caches["train"]
        index, count = shard or (0, 1)
        size = sampler.batch_size // count
        sharded: dict[str, Any] = {} if shard is None else {"shard": shard}

        def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = sampler.batch(int(step), **sharded)
            views = np.zeros(size, np.int64)
            if cache.views and not plain:
                draws = np.random.default_rng((seed, stream, int(step)))
                views = draws.integers(0, cache.views + 1, sampler.batch_size)
                views = views[index * size : (index + 1) * size]
            outputs, sources = cache.read(rows, views)
            return outputs, cache.labels[sources], sources

        blank: tuple[np.ndarray, ...] = (
            np.zeros((size, *cache.shape), np.float16),
            np.zeros(size, np.int32),
            np.zeros(size, np.int64),
        )
        guarded = until_exit(read, afterwards=blank)

        def make(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = tf.numpy_function(guarded, [step], (tf.float16, tf.int32, tf.int64))
            return tuple(tf.ensure_shape(part, each.shape) for part, each in zip(parts, blank))

        return tf.data.Dataset.counter(start_step).map(make, num_parallel_calls=tf.data.AUTOTUNE)
