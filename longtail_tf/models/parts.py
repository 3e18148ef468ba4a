"""The parts of an embedder: what is pretrained, what that gives, and the projection above it.

Every embedder of `networks.build_embedder`, and every top cut from one, ends in the layer "pool",
or in "features", a projection of that without a bias. Between them may lie "whitening", a fixed
map that training does not move (`recognition.whitening`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf

POOL, WHITENING, PROJECTION = "pool", "whitening", "features"


def projection(embedder: tf.keras.Model) -> Optional[tf.keras.layers.Layer]:
    """The projection, kernel float32 [F, D]; None where the embedding is all features."""
    last = embedder.layers[-1]
    return last if last.name == PROJECTION else None


def whitening(embedder: tf.keras.Model) -> Optional[tf.keras.layers.Layer]:
    """The fixed map below the projection, kernel [F, D] and bias [D]; None where there is none."""
    found = [layer for layer in embedder.layers if layer.name == WHITENING]
    return found[0] if found else None


def pooled_features(embedder: tf.keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function: what the embedder takes -> all features of the backbone [B, F]; not trained."""
    above = whitening(embedder) or projection(embedder)
    if above is None:
        return embedder
    names = [layer.name for layer in embedder.layers]
    if "normalise" in names:
        return tf.keras.Model(embedder.inputs, above.input)
    # A top shares its layers with the whole embedder, so that `above.input` may be of that one.
    below = embedder.layers[1 : names.index(above.name)]

    def run(inputs: tf.Tensor) -> tf.Tensor:
        for layer in below:
            inputs = layer(inputs)
        return inputs

    return run


def backbone_variables(embedder: tf.keras.Model) -> list[Any]:
    """The variables that are trained, less those of the projection."""
    last = projection(embedder)
    new = set() if last is None else {id(variable) for variable in last.trainable_variables}
    return [variable for variable in embedder.trainable_variables if id(variable) not in new]
