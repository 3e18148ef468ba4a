"""Learning rate by train step, and the optimizers that use it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Decay shrinks kernels; a norm's scale and a bias have no reason to be small.
NOT_DECAYED = ["gamma", "beta", "bias", "scale"]


class WarmupSchedule(tf.keras.optimizers.schedules.CosineDecay):
    """Keras' CosineDecay from train step `first_step` on, for an optimizer that joins later."""

    def __init__(self, *arguments: Any, first_step: int = 0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.first_step = first_step

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of the update after `step` updates."""
        return super().__call__(tf.cast(step, tf.float32) + self.first_step)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the schedule."""
        return {**super().get_config(), "first_step": self.first_step}


def learning_rate_schedule(
    peak: float, *, steps: int, warmup_steps: int, shape: str, first_step: int = 0
) -> WarmupSchedule:
    """Linear warm-up to `peak`, then half a cosine to 0 at `steps`, or constant.

    Args:
      peak: learning rate after the warm-up.
      steps: train steps of the whole run.
      warmup_steps: steps in which the rate rises from peak / warmup_steps to `peak`.
      shape: "cosine" or "constant".
      first_step: train step of the optimizer's first update.
    """
    return WarmupSchedule(
        peak / max(warmup_steps, 1),
        decay_steps=max(steps - warmup_steps, 1),
        alpha=1.0 if shape == "constant" else 0.0,  # the share of `peak` that is left at the end
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
        first_step=first_step,
    )


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
