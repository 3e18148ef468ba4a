"""The training loop's parts: compile, streams, callbacks, fit from a step to the end."""

from __future__ import annotations

import functools
from typing import Any, Optional

import tensorflow as tf
from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.images.pipeline import plain_errors
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.runs import training_losses
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.streams import (
    build_streams,
    check_shares,
    distributed_streams,
    head_sampler,
    whole_sampler,
)
from longtail_tf.runs.trained_run import build_model
from longtail_tf.sampling import Shard
from longtail_tf.settings.choices import CIFAR_BACKBONES
from longtail_tf.training import workers
from longtail_tf.training.callbacks import Checkpointing, TrainingLog, Validation
from longtail_tf.training.checkpoints import Checkpoints
from longtail_tf.training.learning_rate import WarmupSchedule, build_optimizer
from longtail_tf.training.monitoring import training_sinks, validation_of, validation_sinks


def prepare_tensorflow(*, threads: int) -> None:
    """Fixes the thread count, on which bits depend.

    Raises:
      UserError: TensorFlow already runs with another thread count.
    """
    if threads and tf.config.threading.get_intra_op_parallelism_threads() != threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError as error:
            raise UserError(
                f"--threads={threads}, but TensorFlow already runs in this process with another "
                "count: start a fresh process."
            ) from error


def compiled_model(
    config: ResolvedConfig, index: DatasetIndex, *, num_head: int, strategy: tf.distribute.Strategy
) -> TwoStreamModel:
    """The network of a resolved config, its replicas and optimizers, ready for `fit`."""
    replicas = strategy.num_replicas_in_sync
    check_shares(config, replicas=replicas)
    if replicas > 1:
        logging.info("%s", _replicas_text(config, strategy))
    tf.keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        return _compiled_model(config, index, num_head=num_head)


def _compiled_model(
    config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> TwoStreamModel:
    model = build_model(
        config,
        channels=index.channels,
        num_head=num_head,
        precision=config.precision,
        weights=config.weights,
    )
    has_head_update = config.has_head_stream
    joint = config.schedule == "joint" and has_head_update
    model.compile(
        head_optimizer=_optimizer(config) if has_head_update else None,
        whole_optimizer=_optimizer(config, first_step=config.head_only_steps)
        if config.has_whole_stream and not joint
        else None,
        classification_loss=training_losses.of_head(config, index, model, num_head=num_head)
        if has_head_update
        else None,
        metric_loss=training_losses.of_whole(config, index) if config.has_whole_stream else None,
        schedule=config.schedule,
        classification_weight=config.classification_weight,
        metric_weight=config.metric_weight,
        unit_features=config.unit_features,
        margin=config.margin,
        distance_metric=config.distance_metric,
        mine=config.mine,
        classify_whole=config.classify_whole,
        compare_head=config.compare_head,
        weight_average=config.weight_average,
        jit_compile=config.jit_compile,
    )
    return model


def fit(
    model: TwoStreamModel,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    strategy: tf.distribute.Strategy,
    folder: RunFolder,
    start_step: int,
    checkpoints: Checkpoints,
) -> Optional[int]:
    """Trains from `start_step` to the last step.

    Returns:
      The step at which a signal stopped the training, after a checkpoint; None if it ran through.
    """
    head = head_sampler(config, index.train, num_head=num_head)
    whole = whole_sampler(config, index.train)
    sinks = training_sinks(config, folder, start_step=start_step, chief=workers.is_chief(strategy))
    evaluate = validation_of(model, config, index, num_head=num_head, strategy=strategy)
    segments = [(start_step, config.steps, whole)]
    if start_step < config.head_only_steps:
        segments = [
            (start_step, config.head_only_steps, None),
            (config.head_only_steps, config.steps, whole),
        ]
    for begin, end, segment_whole in segments:
        if begin == end:
            continue
        checkpointing = Checkpointing(
            start_step=begin,
            steps=end,
            every=config.checkpoint_every,
            checkpoints=checkpoints,
            agree=functools.partial(_stops, strategy, config.log_every),
        )
        callbacks: list[tf.keras.callbacks.Callback] = [
            TrainingLog(
                start_step=begin,
                steps=end,
                every=config.log_every,
                images_per_step=_images_per_step(head, segment_whole),
                sinks=sinks,
            )
        ]
        if evaluate is not None:
            callbacks.append(
                Validation(
                    start_step=begin,
                    steps=end,
                    every=config.eval_every,
                    evaluate=evaluate,
                    sinks=validation_sinks(config, folder),
                )
            )
        callbacks.append(checkpointing)
        streams = functools.partial(
            _streams, config, index, head=head, whole=segment_whole, start_step=begin
        )
        with plain_errors():
            model.fit(
                distributed_streams(strategy, streams),
                steps_per_epoch=end - begin,
                verbose=0,
                shuffle=False,  # the samplers do; Keras 3 would warn
                callbacks=callbacks,
            )
        if checkpointing.interrupted_at is not None:
            return checkpointing.interrupted_at
    return None


def _optimizer(config: ResolvedConfig, *, first_step: int = 0) -> tf.keras.optimizers.Optimizer:
    schedule = WarmupSchedule(
        config.learning_rate,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        shape=config.lr_schedule,
        first_step=first_step,
    )
    return build_optimizer(
        config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )


def _images_per_step(head: Any, whole: Any) -> int:
    return sum(sampler.batch_size for sampler in (head, whole) if sampler is not None)


def _streams(
    config: ResolvedConfig, index: DatasetIndex, shard: Optional[Shard], **streams: Any
) -> Any:
    return build_streams(config, index, shard=shard, **streams)


def _stops(strategy: tf.distribute.Strategy, every: int, step: int, asked: bool) -> bool:
    """Whether to stop at this step. Workers ask each other where they exchange numbers anyway."""
    if workers.count_of(strategy) > 1 and step % every:
        return False
    return workers.any_of(strategy, asked)


def _replicas_text(config: ResolvedConfig, strategy: tf.distribute.Strategy) -> str:
    processes = workers.count_of(strategy)
    text = f"{strategy.num_replicas_in_sync} replicas share each batch"
    text += f", in {processes} workers" if processes > 1 else ""
    if config.backbone not in CIFAR_BACKBONES:
        text += (
            f"; the batch normalisation inside {config.backbone} is of each replica's own images, "
            "so the weights will differ from those of one replica"
        )
    return text
