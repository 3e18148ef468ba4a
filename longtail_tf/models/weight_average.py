"""A running average of a network's weights over its train steps, to recognise with.

Polyak averaging with an exponential window (Tarvainen 2017, arXiv:1703.01780, section 2). Moving
batch-norm statistics are averaged like the weights.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class WeightAverage:
    """Averages of every weight of a model's parts.

    Args:
      model: with `embedder`, `neck` and `head`; each but the first may be None.
      decay: share of the old average that stays after a step, above 0 and below 1. The first steps
        use (1 + step) / (10 + step) where that is less, so that the random start is soon forgotten.

    Attributes:
      state: the averages as a trackable, for checkpoints. They are no weights of the network.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._decay = decay
        self._sources = {
            name: list(getattr(model, name).weights)
            for name in ("embedder", "neck", "head")
            if getattr(model, name) is not None
        }
        self.values = {
            part: [
                tf.Variable(
                    tf.convert_to_tensor(weight),
                    trainable=False,
                    name=f"average_{part}_{place}",
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for place, weight in enumerate(weights)
            ]
            for part, weights in self._sources.items()
        }

        self.state = tf.train.Checkpoint(**self.values)

    def update(self, step: Any) -> None:
        """Moves the averages towards the weights after train step `step`."""
        done = tf.cast(step, tf.float32)
        rate = 1.0 - tf.minimum(self._decay, (1.0 + done) / (10.0 + done))
        for part, averages in self.values.items():
            for average, weight in zip(averages, self._sources[part]):
                now = tf.cast(tf.convert_to_tensor(weight), average.dtype)
                average.assign_add(tf.cast(rate, average.dtype) * (now - average))

    def weights_of(self, part: str) -> list:
        """The averaged weights of "embedder", "neck" or "head", as arrays for `set_weights`."""
        return [average.numpy() for average in self.values[part]]
