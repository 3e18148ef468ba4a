"""The training loop's parts: compile, streams, callbacks, fit from a step to the end."""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf
from absl import logging

from longtail_tf import losses
from longtail_tf.callbacks import (
    Checkpointing,
    CollapseSentinel,
    Progress,
    Sink,
    TensorBoardScalars,
    TrainingLog,
    Validation,
)
from longtail_tf.checkpoints import Checkpoints
from longtail_tf.config import Config
from longtail_tf.datasets import DatasetIndex, Split
from longtail_tf.errors import UserError
from longtail_tf.evaluation import quick_validation
from longtail_tf.input_pipeline import plain_errors
from longtail_tf.learning_rate import WarmupSchedule, build_optimizer
from longtail_tf.run_folder import RunFolder
from longtail_tf.streams import build_streams, head_sampler, whole_sampler
from longtail_tf.tables import format_rules_table
from longtail_tf.trained_run import build_model
from longtail_tf.two_stream_model import TwoStreamModel


def prepare_tensorflow(*, threads: int, seed: int) -> None:
    """Fixes the thread count, on which bits depend, and the seed of the weights.

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
    tf.keras.utils.set_random_seed(seed)


def compiled_model(config: Config, index: DatasetIndex, *, num_head: int) -> TwoStreamModel:
    """The network of a resolved config, ready for `fit`."""
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
        classification_loss=losses.classification_loss(
            config.classification_loss,
            class_counts=index.class_counts[:num_head],
            label_smoothing=config.label_smoothing,
        )
        if has_head_update
        else None,
        metric_loss=losses.metric_loss(
            config.metric_loss,
            margin=config.margin or 0.0,
            distance_metric=config.distance_metric,
            images_per_class=config.images_per_class,
            temperature=config.metric_temperature,
        )
        if config.has_whole_stream
        else None,
        schedule=config.schedule,
        classification_weight=config.classification_weight,
        metric_weight=config.metric_weight,
        unit_features=config.unit_features,
        margin=config.margin or 0.0,
        distance_metric=config.distance_metric,
        mine=config.mine,
        jit_compile=config.jit_compile,
    )
    return model


def fit(
    model: TwoStreamModel,
    config: Config,
    index: DatasetIndex,
    *,
    num_head: int,
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
    sinks = _sinks(config, folder, start_step=start_step)
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
            start_step=begin, steps=end, every=config.checkpoint_every, checkpoints=checkpoints
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
        if index.val is not None and config.eval_every:
            callbacks.append(
                _validation(model, config, index, index.val, num_head, folder, begin, end)
            )
        callbacks.append(checkpointing)
        with plain_errors():
            model.fit(
                build_streams(config, index, head=head, whole=segment_whole, start_step=begin),
                steps_per_epoch=end - begin,
                verbose=0,
                callbacks=callbacks,
            )
        if checkpointing.interrupted_at is not None:
            return checkpointing.interrupted_at
    return None


def _optimizer(config: Config, *, first_step: int = 0) -> tf.keras.optimizers.Optimizer:
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


def _sinks(config: Config, folder: RunFolder, *, start_step: int) -> list[Sink]:
    sinks: list[Sink] = [
        folder.append_metrics,
        Progress(steps=config.steps, start_step=start_step),
        CollapseSentinel(
            margin=config.margin or 0.0,
            unit_features=config.unit_features,
            start_step=max(start_step, config.head_only_steps),
        ),
    ]
    if config.tensorboard:
        sinks.append(TensorBoardScalars(str(folder.path / "tensorboard")))
    return sinks


def _validation(
    model: TwoStreamModel,
    config: Config,
    index: DatasetIndex,
    val: Split,
    num_head: int,
    folder: RunFolder,
    begin: int,
    end: int,
) -> Validation:
    def evaluate(step: int) -> dict[str, Any]:
        return quick_validation(model, index, val, config, num_head=num_head, step=step)

    def show(record: dict[str, Any]) -> None:
        table = format_rules_table(record["val"], default_rule=config.inference_rule)
        logging.info("\nvalidation at step %s, %%\n%s", f"{record['step']:,}", table)

    sinks: list[Sink] = [folder.append_metrics, show]
    if config.tensorboard:
        sinks.append(TensorBoardScalars(str(folder.path / "tensorboard")))
    return Validation(
        start_step=begin, steps=end, every=config.eval_every, evaluate=evaluate, sinks=sinks
    )
