"""What is watched while a run trains: where its records go, and the validation between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.metrics.tables import format_rules_table
from longtail_tf.runs.evaluation import quick_validation
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.trained_run import copy_weights
from longtail_tf.training import workers
from longtail_tf.training.callbacks import CollapseSentinel, Sink, TensorBoardScalars
from longtail_tf.training.progress import Progress
from longtail_tf.training.start import Start, plain_copy


def training_sinks(
    config: ResolvedConfig, folder: RunFolder, *, start_step: int, chief: bool
) -> list[Sink]:
    """Where training records go; workers beside the chief only watch them for collapse."""
    sentinel = CollapseSentinel(
        margin=config.margin, unit_features=config.unit_features, start_step=start_step
    )
    if not chief:
        return [sentinel]
    sinks: list[Sink] = [
        folder.append_metrics,
        Progress(steps=config.steps, start_step=start_step),
        sentinel,
    ]
    if config.tensorboard:
        sinks.append(TensorBoardScalars(str(folder.path / "tensorboard")))
    return sinks


def validation_of(
    begun: Start,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    team: workers.Team,
) -> Optional[Callable[[int], Optional[dict[str, Any]]]]:
    """What `Validation` runs: step -> record; None where there is nothing to run.

    Replicas are evaluated as a plain copy, by the chief alone: reading a variable of the replicas
    may need all the workers, so a pass over the images with them would.
    """
    if index.val is None or not config.eval_every:
        return None
    copy = None
    if team.strategy.num_replicas_in_sync > 1:
        copy = plain_copy(begun, config, index, num_head=num_head).model

    def evaluate(step: int) -> Optional[dict[str, Any]]:
        if copy is not None:
            copy_weights(begun.model, copy)
        if not team.is_chief:
            return None
        return quick_validation(
            copy or begun.model, begun.inputs, index, num_head=num_head, step=step
        )

    return evaluate


def validation_sinks(config: ResolvedConfig, folder: RunFolder) -> list[Sink]:
    """Where validation records go: the run folder, the user's screen, TensorBoard if asked for."""

    def show(record: dict[str, Any]) -> None:
        table = format_rules_table(record["val"], default_rule=config.inference_rule)
        logging.info("\nvalidation at step %s, %%\n%s", f"{record['step']:,}", table)

    sinks: list[Sink] = [folder.append_metrics, show]
    if config.tensorboard:
        sinks.append(TensorBoardScalars(str(folder.path / "tensorboard")))
    return sinks
