"""The two losses of a training, from its settings and the classes of its data."""

from __future__ import annotations

import math
from typing import Any

from longtail_tf import losses
from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.losses.memory import RememberingLoss
from longtail_tf.models.head_terms import SampledCrossEntropy
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.runs.streams import seen_counts


def of_head(
    config: ResolvedConfig, index: DatasetIndex, model: TwoStreamModel, *, num_head: int
) -> Any:
    """The classification loss, over `num_head` classes, as `TwoStreamModel.compile` takes it."""
    if 0 < config.head_sampled_classes < num_head:
        return SampledCrossEntropy(config.head_sampled_classes, config.seed)
    return losses.classification_loss(
        config.classification_loss,
        class_counts=seen_counts(config, index.class_counts, num_head=num_head),
        label_smoothing=config.label_smoothing,
        **_reweighting(config, model),
    )


def of_whole(config: ResolvedConfig, index: DatasetIndex) -> Any:
    """The metric loss of a resolved config, with its memory if it has one."""
    loss = losses.metric_loss(
        config.metric_loss,
        margin=config.margin,
        distance_metric=config.distance_metric,
        temperature=config.metric_temperature,
        num_classes=index.num_classes,
        embedding_dim=config.embedding_dim,
    )
    if not config.memory_size:
        return loss
    return RememberingLoss(loss, size=config.memory_size, dimension=config.embedding_dim)


def _reweighting(config: ResolvedConfig, model: TwoStreamModel) -> dict[str, Any]:
    """When the classification loss begins to weigh classes: by the model's own step counter, which
    a resumed run restores."""
    if config.reweight_from >= 1:
        return {}
    first = math.ceil(config.reweight_from * config.steps)
    return {"reweight_from": first, "step": model.step}
