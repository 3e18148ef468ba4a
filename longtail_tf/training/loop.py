"""The training loop's parts: compile, streams, callbacks, fit from a step to the end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf
from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.images.pipeline import plain_errors
from longtail_tf.models.parts import backbone_variables
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.runs import training_losses
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.streams import distributed_streams, head_sampler, whole_sampler
from longtail_tf.settings.backbones import facts
from longtail_tf.training import workers
from longtail_tf.training.callbacks import Checkpointing, Estimate, Stopped, TrainingLog, Validation
from longtail_tf.training.checkpoints import Checkpoints
from longtail_tf.training.learning_rate import TwoRates, build_optimizer, learning_rate_schedule
from longtail_tf.training.monitoring import training_sinks, validation_of, validation_sinks
from longtail_tf.training.plan import STEP_COST
from longtail_tf.training.start import Start


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


def compile_for(
    model: TwoStreamModel, config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> None:
    """Gives a network its losses and optimizers, ready for `fit`; in the scope of its strategy."""
    if not config.steps:
        return  # nothing is trained
    has_head_update = config.has_head_stream
    joint = config.schedule == "joint" and has_head_update
    model.compile(
        head_optimizer=_optimizer(config, model) if has_head_update else None,
        whole_optimizer=_optimizer(config, model)
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
        stay_near=config.stay_near,
        jit_compile=config.jit_compile,
    )


def fit(
    begun: Start,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    team: workers.Team,
    folder: RunFolder,
    start_step: int,
    checkpoints: Checkpoints,
) -> Optional[Stopped]:
    """Trains a compiled network from `start_step` to the last step.

    Returns:
      Where a signal stopped the training, after a checkpoint; None if it ran through.
    """
    if start_step >= config.steps:
        return None
    model, inputs = begun.model, begun.inputs
    head = head_sampler(config, index.train, num_head=num_head)
    whole = whole_sampler(config, index.train)
    span = {"start_step": start_step, "steps": config.steps}
    callbacks: list[tf.keras.callbacks.Callback] = [
        TrainingLog(
            **span,
            every=config.log_every,
            images_per_step=config.images_per_step,
            sinks=training_sinks(config, folder, start_step=start_step, chief=team.is_chief),
        )
    ]
    if team.is_chief:
        callbacks.append(Estimate(**span, evaluation=_evaluation_seconds(begun, config, index)))
    evaluate = validation_of(begun, config, index, num_head=num_head, team=team)
    if evaluate is not None:
        callbacks.append(
            Validation(
                **span,
                every=config.eval_every,
                evaluate=evaluate,
                sinks=validation_sinks(config, folder),
            )
        )
    checkpointing = Checkpointing(
        **span,
        every=config.checkpoint_every,
        checkpoints=checkpoints,
        agree=functools.partial(_stops, team.strategy, config.log_every),
    )
    streams = functools.partial(inputs.streams, head=head, whole=whole, start_step=start_step)
    with plain_errors():
        model.fit(
            distributed_streams(team.strategy, lambda shard: streams(shard=shard)),
            steps_per_epoch=config.steps - start_step,
            verbose=0,
            shuffle=False,  # the samplers do; Keras 3 would warn
            callbacks=[*callbacks, checkpointing],
        )
    return checkpointing.stopped


def _evaluation_seconds(
    begun: Start, config: ResolvedConfig, index: DatasetIndex
) -> Callable[[float], float]:
    """Seconds a train step -> seconds from the last step to the report, about.

    A train step costs three forward passes. Training and validation images are looked at once more
    above the trunk, test images through all of it.
    """
    seen = len(index.train) + len(index.val or ())
    tests = len(index.test or ())

    def after(seconds_a_step: float) -> float:
        forward = seconds_a_step / max(config.images_per_step, 1) / STEP_COST
        return forward * (seen + tests) + begun.trunk_seconds * tests

    return after


def show_replicas(config: ResolvedConfig, strategy: tf.distribute.Strategy) -> None:
    """Says how several replicas share the work."""
    if strategy.num_replicas_in_sync == 1:
        return
    processes = workers.count_of(strategy)
    text = f"{strategy.num_replicas_in_sync} replicas share each batch"
    text += f", in {processes} workers" if processes > 1 else ""
    if not facts(config.backbone).synchronised and config.train_from == "all":
        text += (
            f"; the batch normalisation inside {config.backbone} is of each replica's own images, "
            "so the weights will differ from those of one replica"
        )
    logging.info("%s", text)


def _optimizer(config: ResolvedConfig, model: TwoStreamModel) -> Any:
    """The optimizer of one update; two in one where the backbone has a rate of its own."""

    def at(peak: float) -> tf.keras.optimizers.Optimizer:
        schedule = learning_rate_schedule(
            peak,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            shape=config.lr_schedule,
        )
        return build_optimizer(
            config.optimizer,
            schedule,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )

    backbone = backbone_variables(model.embedder)
    if config.backbone_rate == 1.0 or not backbone:
        return at(config.learning_rate)
    return TwoRates(
        at(config.learning_rate), at(config.learning_rate * config.backbone_rate), backbone
    )


def _stops(strategy: tf.distribute.Strategy, every: int, step: int, asked: bool) -> bool:
    """Whether to stop at this step. Workers ask each other where they exchange numbers anyway."""
    if workers.count_of(strategy) > 1 and step % every:
        return False
    return workers.any_of(strategy, asked)
