"""Learning rate by train step, and the optimizers that use it."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

# Decay shrinks kernels; a norm's scale and a bias have no reason to be small.
NOT_DECAYED = ["gamma", "beta", "bias", "scale"]


class WarmupSchedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 over `warmup_steps`, then half a cosine to 0 at `steps`, or constant.

    Counts train steps: each stream's optimizer makes one update a step, from `first_step` on.
    """

    def __init__(
        self, peak: float, *, steps: int, warmup_steps: int, shape: str, first_step: int = 0
    ) -> None:
        super().__init__()
        self.peak, self.steps, self.warmup_steps, self.shape = peak, steps, warmup_steps, shape
        self.first_step = first_step

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of the update after `step` updates."""
        step = tf.cast(step, tf.float32) + self.first_step
        warmup = tf.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        if self.shape == "constant":
            return self.peak * warmup
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        return self.peak * warmup * 0.5 * (1.0 + tf.cos(math.pi * progress))

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the schedule."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "shape": self.shape,
            "first_step": self.first_step,
        }


def build_optimizer(
    name: str, schedule: WarmupSchedule, *, momentum: float, weight_decay: float
) -> tf.keras.optimizers.Optimizer:
    """SGD with Nesterov momentum, or AdamW; decoupled weight decay on kernels only.

    Args:
      name: "sgd" or "adamw".
      schedule: learning rate by step.
      momentum: of SGD.
      weight_decay: share of a weight lost per unit of learning rate; 0 for none.
    """
    if name == "sgd":
        optimizer = tf.keras.optimizers.SGD(
            schedule, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay or None
        )
    else:
        optimizer = tf.keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer
