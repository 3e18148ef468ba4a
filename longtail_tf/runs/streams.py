"""The two streams of a training run: which rows, and how they become batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Union

import numpy as np
import tensorflow as tf

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex, Split
from longtail_tf.errors import UserError
from longtail_tf.head_set import select_head
from longtail_tf.images.inputs import PixelInputs
from longtail_tf.sampling import BalancedSampler, PKSampler, RandomSampler, Shard


class HeadPKSampler:
    """PK batches of the head classes alone, as rows of the whole training split."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, **pk_settings: Any) -> None:
        self._rows = rows
        self._sampler = PKSampler(labels[rows], **pk_settings)
        self.batch_size = self._sampler.batch_size

    def batch(self, step: int, *, shard: Optional[Shard] = None) -> np.ndarray:
        """Rows of one batch, int64 [B]."""
        return self._rows[self._sampler.batch(step, shard=shard)]

    def describe(self, steps_done: Optional[int] = None) -> dict[str, Any]:
        """As `PKSampler.describe`, of the head classes."""
        return self._sampler.describe(steps_done)


HeadSampler = Union[RandomSampler, BalancedSampler, HeadPKSampler]


def head_size(config: ResolvedConfig, class_counts: np.ndarray) -> int:
    """Number of head classes: the head is the ids below it, as ids fall by training count.

    0 for a run without a head rule (a metric loss alone).
    """
    if config.train_from == "none":
        return 0  # there is no head classifier
    if config.head_all:
        return len(class_counts)
    rule: dict[str, Any] = {
        "min_count": config.head_min_count,
        "ratio": config.head_ratio,
        "num_classes": config.head_num_classes,
    }
    rule = {name: value for name, value in rule.items() if value is not None}
    return len(select_head(class_counts, **rule)) if rule else 0


def seen_counts(config: ResolvedConfig, class_counts: np.ndarray, *, num_head: int) -> np.ndarray:
    """Counts of the head classes as the classification loss meets them, [H].

    The training counts; or, where it sees the whole stream's images too, the mixture of both
    streams, scaled to as many images: what a logit-adjusted loss must be adjusted by.
    """
    counts = class_counts[:num_head].astype(np.float64)
    if not config.classify_whole:
        return class_counts[:num_head]
    head = counts / counts.sum() if config.head_sampling == "random" else 1.0 / num_head
    drawn = class_counts.astype(np.float64) ** config.class_power
    whole = (drawn / drawn.sum())[:num_head]
    slots = (config.classes_per_batch) * config.images_per_class
    mixed = config.head_batch_size * head + slots * whole
    return mixed / mixed.sum() * counts.sum()


def head_sampler(config: ResolvedConfig, train: Split, *, num_head: int) -> Optional[HeadSampler]:
    """The sampler of the head stream; None for a run without one."""
    if not config.has_head_stream or not num_head:
        return None
    rows = np.flatnonzero(train.labels < num_head)
    if config.head_sampling == "random":
        return RandomSampler(rows, batch_size=config.head_batch_size, seed=config.seed)
    if config.head_sampling == "balanced":
        return BalancedSampler(
            rows, train.labels[rows], batch_size=config.head_batch_size, seed=config.seed
        )
    classes = config.head_batch_size // config.images_per_class
    if not 2 <= classes <= num_head:
        raise UserError(
            f"--head_sampling=pk with --head_batch_size={config.head_batch_size} and "
            f"--images_per_class={config.images_per_class} asks for {classes} head classes a "
            f"batch, but the head has {num_head}: a batch needs 2 to {num_head} of them."
        )
    return HeadPKSampler(
        rows,
        train.labels,
        classes_per_batch=classes,
        images_per_class=config.images_per_class,
        seed=config.seed,
    )


def whole_sampler(config: ResolvedConfig, train: Split) -> Optional[PKSampler]:
    """The sampler of the whole stream; None for a run without one."""
    if not config.has_whole_stream:
        return None
    return PKSampler(
        train.labels,
        classes_per_batch=config.classes_per_batch,
        images_per_class=config.images_per_class,
        seed=config.seed,
        class_power=config.class_power,
    )


def pixel_inputs(config: ResolvedConfig, index: DatasetIndex) -> PixelInputs:
    """The images of a data set as the settings have them read and augmented."""
    return PixelInputs(
        index,
        image_size=config.image_size,
        head_augment=config.head_augment,
        whole_augment=config.whole_augment,
        seed=config.seed,
        cache_bytes=config.cache_megabytes * 2**20,
        max_bad_share=config.max_bad_share,
    )


def distributed_streams(
    strategy: tf.distribute.Strategy, streams: Callable[[Optional[Shard]], tf.data.Dataset]
) -> tf.data.Dataset:
    """The streams as `fit` takes them: to every replica its slice of each batch.

    A process reads and decodes only the slice of its own replicas, once, and deals it out to them.
    (A plain dataset would be split under one process, but would give every worker the same part.)

    Args:
      strategy: of the training; the default one gets the streams as they are.
      streams: shard (index, count) -> endless batches, that slice of each; None for all of it.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return streams(None)

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        processes = context.num_input_pipelines
        shard = (context.input_pipeline_id, processes) if processes > 1 else None
        return _dealt(streams(shard), replicas // processes)

    return strategy.distribute_datasets_from_function(of_process)


def _dealt(batches: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Each batch as `replicas` elements in turn, its equal parts; scalars go to all of them."""
    if replicas == 1:
        return batches

    def part(values: tf.Tensor) -> tf.Tensor:
        if values.shape.rank == 0:
            return tf.repeat(values[None], replicas)
        return tf.reshape(values, [replicas, values.shape[0] // replicas, *values.shape[1:]])

    dealt = batches.map(lambda batch: tf.nest.map_structure(part, batch)).unbatch()
    return dealt.prefetch(replicas)


def check_shares(config: ResolvedConfig, *, replicas: int) -> None:
    """Refuses batches that cannot be shared out equally among `replicas`.

    Raises:
      UserError: the shares are not equal, or one has fewer than two classes.
    """
    if config.has_whole_stream:
        _check_share("classes_per_batch", config.classes_per_batch, "classes", replicas)
    if config.has_head_stream and config.head_sampling == "pk":
        size = config.head_batch_size
        _check_share("head_batch_size", size, "classes", replicas, unit=config.images_per_class)
    elif config.has_head_stream:
        _check_share("head_batch_size", config.head_batch_size, "images", replicas)


def _check_share(flag: str, size: int, what: str, replicas: int, *, unit: int = 1) -> None:
    least = 2 if what == "classes" else 1
    units = size // unit
    if replicas == 1 or (units % replicas == 0 and units >= least * replicas):
        return
    why = " (one class alone has no negatives)" if what == "classes" else ""
    better = max(least, units // replicas) * replicas * unit
    raise UserError(
        f"--{flag}={size} does not give each of the {replicas} replicas the same number of {what}, "
        f"at least {least}{why}: set --{flag}={better}, or train fewer replicas."
    )
