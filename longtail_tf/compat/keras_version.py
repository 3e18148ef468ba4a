"""What differs between Keras 2.15 (Python 3.9 to 3.11) and Keras 3 (Python 3.12, 3.13).

Everything else in longtail_tf is one source for both. Each name here says in one line what Keras 3
does otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

# Keras 2.15 has no `version` function; its `__version__` may not be loaded yet.
KERAS_3 = hasattr(tf.keras, "version") and tf.keras.version().startswith("3.")

# Keras 3 knows aggregations by its own words, not by TensorFlow's enumeration.
ONLY_FIRST_REPLICA: Any = (
    "only_first_replica" if KERAS_3 else tf.VariableAggregation.ONLY_FIRST_REPLICA
)


def tf_variables(variables: Iterable[Any]) -> list[tf.Variable]:
    """What a gradient tape takes: Keras 3 wraps a tf.Variable in an object of its own."""
    return [variable.value if KERAS_3 else variable for variable in variables]


def share_of_replica(loss: tf.Tensor) -> tf.Tensor:
    """A Loss object's value as `fit` adds it up over replicas.

    Keras 2.15 divides what a Loss object returns by the number of replicas; in Keras 3 the object
    itself must.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync if KERAS_3 else 1
    return loss if replicas == 1 else loss / tf.cast(replicas, loss.dtype)


def all_layers(model: Any) -> list[Any]:
    """Every layer in a model, those inside layers too: in Keras 3 a layer is no tf.Module."""
    return list(model._flatten_layers() if KERAS_3 else model.submodules)


def load_all_weights(model: Any, path: str) -> None:
    """Loads a `.weights.h5` file; where Keras 3 only warns that it skips layers, this refuses.

    Raises:
      OSError, KeyError, TypeError: the file is damaged.
      ValueError: it is of another network.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Skipping nested container")
        try:
            model.load_weights(path)
        except UserWarning as warning:
            raise ValueError("layers are missing or have other shapes") from warning
