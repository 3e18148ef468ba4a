"""Losses: metric losses in O(B^2) memory, and classification losses for long tails.

Names are loaded when first used: settings import `longtail_tf.losses.checks`, and that must not
bring TensorFlow with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtail_tf.losses.classification import classification_loss
    from longtail_tf.losses.contrastive import multi_similarity_loss, supcon_loss
    from longtail_tf.losses.keras_losses import TripletHardLoss, TripletSemiHardLoss
    from longtail_tf.losses.memory import Memory, empty_memory, enqueue
    from longtail_tf.losses.metric_losses import metric_loss
    from longtail_tf.losses.partial import partial_cross_entropy
    from longtail_tf.losses.prototype import ema_prototypes, prototype_loss
    from longtail_tf.losses.statistics import triplet_statistics
    from longtail_tf.losses.triplet import triplet_hard_loss, triplet_semihard_loss

__all__ = [
    "Memory",
    "TripletHardLoss",
    "TripletSemiHardLoss",
    "classification_loss",
    "ema_prototypes",
    "empty_memory",
    "enqueue",
    "metric_loss",
    "multi_similarity_loss",
    "partial_cross_entropy",
    "prototype_loss",
    "supcon_loss",
    "triplet_hard_loss",
    "triplet_semihard_loss",
    "triplet_statistics",
]

# No module here may bear the name of something it exports: importing it would hide the function.
_HOMES = {
    "Memory": "memory",
    "TripletHardLoss": "keras_losses",
    "TripletSemiHardLoss": "keras_losses",
    "classification_loss": "classification",
    "ema_prototypes": "prototype",
    "empty_memory": "memory",
    "enqueue": "memory",
    "metric_loss": "metric_losses",
    "multi_similarity_loss": "contrastive",
    "partial_cross_entropy": "partial",
    "prototype_loss": "prototype",
    "supcon_loss": "contrastive",
    "triplet_hard_loss": "triplet",
    "triplet_semihard_loss": "triplet",
    "triplet_statistics": "statistics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
