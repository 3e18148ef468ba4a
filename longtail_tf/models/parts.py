"""The parts of an embedder: what is pretrained, what that gives, and the projection above it.

Every embedder of `networks.build_embedder`, and every top cut from one, ends in the layer
"features", a projection without a bias; without one (an embedding of all features) in "pool".
"""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf

PROJECTION = "features"


def projection(embedder: tf.keras.Model) -> Optional[tf.keras.layers.Layer]:
    """The projection, kernel float32 [F, D]; None where the embedding is all features."""
    last = embedder.layers[-1]
    return last if last.name == PROJECTION else None


def features_model(embedder: tf.keras.Model) -> tf.keras.Model:
    """What the embedder takes -> all features [B, F], before the projection."""
    last = projection(embedder)
    return embedder if last is None else tf.keras.Model(embedder.inputs, last.input)


def backbone_variables(embedder: tf.keras.Model) -> list[Any]:
    """The variables that are trained, less those of the projection."""
    last = projection(embedder)
    new = set() if last is None else {id(variable) for variable in last.trainable_variables}
    return [variable for variable in embedder.trainable_variables if id(variable) not in new]
