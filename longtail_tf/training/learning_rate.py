"""Learning rate by train step, and the optimizers that use it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

# Decay shrinks kernels; a norm's scale and a bias have no reason to be small.
NOT_DECAYED = ["gamma", "beta", "bias", "scale"]


class WarmupSchedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 over `warmup_steps`, then half a cosine to 0 at `steps`, or constant.

    Counts train steps: each stream's optimizer makes one update a step.
    """

    def __init__(self, peak: float, *, steps: int, warmup_steps: int, shape: str) -> None:
        super().__init__()
        self.peak, self.steps, self.warmup_steps, self.shape = peak, steps, warmup_steps, shape

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate of the update after `step` updates."""
        step = tf.cast(step, tf.float32)
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
        }


def build_optimizer(
    name: str,
    schedule: WarmupSchedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_norm: float = 0.0,
) -> tf.keras.optimizers.Optimizer:
    """SGD with Nesterov momentum, or AdamW; decoupled weight decay on kernels only.

    Args:
      name: "sgd" or "adamw".
      schedule: learning rate by step.
      momentum: of SGD.
      weight_decay: share of a weight lost per unit of learning rate; 0 for none.
      clip_norm: longest the gradient of an update may be, all variables together; 0: any.
    """
    clip: dict[str, Any] = {"global_clipnorm": clip_norm} if clip_norm else {}
    if name == "sgd":
        optimizer = tf.keras.optimizers.SGD(
            schedule,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay or None,
            **clip,
        )
    else:
        optimizer = tf.keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **clip)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


class TwoRates(tf.Module):
    """Two optimizers as one: the pretrained backbone learns at a rate of its own.

    A Keras optimizer has one rate for all variables, and scaled gradients are no cure: an adaptive
    optimizer divides the scale out again.

    Attributes:
      main: moves what is new; its rate is the one that is logged.
      backbone: moves the variables named at the start.
    """

    def __init__(
        self,
        main: tf.keras.optimizers.Optimizer,
        backbone: tf.keras.optimizers.Optimizer,
        backbone_variables: Iterable[Any],
    ) -> None:
        super().__init__()
        self.main, self.backbone = main, backbone
        self._of_backbone = frozenset(map(id, backbone_variables))

    def build(self, variables: Iterable[Any]) -> None:
        """Makes the slots of both."""
        new, pretrained = self._sorted(variables)
        self.main.build(new)
        self.backbone.build(pretrained)

    def apply_gradients(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Moves each variable of (gradient, variable) by its own optimizer."""
        pairs = list(pairs)
        for optimizer, chosen in ((self.main, False), (self.backbone, True)):
            mine = [pair for pair in pairs if (id(pair[1]) in self._of_backbone) is chosen]
            if mine:
                optimizer.apply_gradients(mine)

    def _sorted(self, variables: Iterable[Any]) -> tuple[list[Any], list[Any]]:
        parts: tuple[list[Any], list[Any]] = ([], [])
        for variable in variables:
            parts[id(variable) in self._of_backbone].append(variable)
        return parts
