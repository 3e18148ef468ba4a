"""Learning rate by train step, and the optimizers that use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

# Decay shrinks kernels; a norm's scale and a bias have no reason to be small.
NOT_DECAYED = ["gamma", "beta", "bias", "scale"]


def learning_rate_schedule(
    peak: float, *, steps: int, warmup_steps: int, shape: str
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to `peak`, then half a cosine to 0 at `steps`, or constant.

    Counts train steps: each stream's optimizer makes one update a step.

    Args:
      peak: learning rate after the warm-up.
      steps: train steps of the whole run.
      warmup_steps: updates in which the rate rises from peak / warmup_steps to `peak`.
      shape: "cosine" or "constant".
    """
    rises = max(warmup_steps - 1, 0)  # between so many updates as warm up
    return tf.keras.optimizers.schedules.CosineDecay(
        peak / max(warmup_steps, 1),
        decay_steps=max(steps - rises, 1),
        alpha=1.0 if shape == "constant" else 0.0,  # the share of `peak` that is left at the end
        warmup_target=peak if rises else None,
        warmup_steps=rises,
    )


def build_optimizer(
    name: str,
    schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
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
