"""Reads a network's weights file whichever Keras wrote it.

Keras 2.15 and Keras 3 write the same arrays in the same order within a part of the network, but
file the parts of a subclassed model under different names:

| part | Keras 2.15 | Keras 3 |
|---|---|---|
| embedder | layers/functional | embedder |
| neck | neck | layers/batch_normalization |
| head | layers/dense, layers/cosine_head | head |
| step | vars/0 | vars/0 |

Where a part is missing, an attribute moves up into `layers`; so every name is looked for.
"""

from __future__ import annotations

import pathlib
import tempfile

import h5py
import numpy as np
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.models.two_stream_model import TwoStreamModel

_PLACES = {
    "embedder": ("embedder", "layers/functional"),
    "neck": ("neck", "layers/batch_normalization"),
    "head": ("head", "layers/dense", "layers/cosine_head"),
}


def load_weights(model: TwoStreamModel, path: pathlib.Path) -> None:
    """Gives `model` the weights and the step in `path`, a `model.weights.h5` of either Keras.

    Raises:
      OSError: the file is no weights file.
      ValueError: it is of another network.
    """
    with h5py.File(path, "r") as file, tempfile.TemporaryDirectory() as scratch:
        embedder = pathlib.Path(scratch, "embedder.weights.h5")
        with h5py.File(embedder, "w") as part:
            found = _part(file, "embedder")
            for name in found:
                found.copy(name, part)
        keras_version.load_all_weights(model.embedder, str(embedder))
        for name in ("neck", "head"):
            layer = getattr(model, name)
            if layer is not None:
                layer.set_weights(_arrays(_part(file, name)))
        model.step.assign(tf.constant(_arrays(file)[0], tf.int64))


def _part(file: h5py.File, name: str) -> h5py.Group:
    for place in _PLACES[name]:
        if isinstance(file.get(place), h5py.Group) and len(file[place]):
            return file[place]
    raise ValueError(f"it holds no {name}")


def _arrays(group: h5py.Group) -> list[np.ndarray]:
    """The arrays of one layer, in Keras' order."""
    if "vars" not in group:
        raise ValueError(f"it holds no variables in {group.name}")
    return [group["vars"][str(i)][()] for i in range(len(group["vars"]))]
