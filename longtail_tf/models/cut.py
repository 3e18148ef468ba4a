"""Cuts a functional Keras model in two at a layer, both halves sharing its weights."""

from __future__ import annotations

import tensorflow as tf

from longtail_tf.errors import UserError


def cut_at(net: tf.keras.Model, layer: str) -> tuple[tf.keras.Model, tf.keras.Model]:
    """Cuts `net` before a layer: `top(trunk(x))` equals `net(x)`.

    The trunk stands still: its weights get no gradient and its batch norms use their stored
    statistics, in `net` as well, for the layers are the same objects.

    Args:
      net: a functional model of one input and one output.
      layer: name of the first layer of the top.

    Returns:
      trunk: what `net` takes -> what the layer takes.
      top: what the layer takes -> what `net` gives.

    Raises:
      UserError: there is no such layer, or the network branches around the cut.
    """
    names = [candidate.name for candidate in net.layers]
    if layer not in names:
        raise UserError(
            f"{net.name} has no layer {layer!r} to cut at; it has {', '.join(names[1:9])}, ... "
            f"{names[-1]}."
        )
    if isinstance(net.get_layer(layer), tf.keras.Model):
        raise UserError(
            f"{net.name} cannot be cut at {layer}: it is a model inside the model; name the layer "
            "after it."
        )
    taken = net.get_layer(layer).input
    if isinstance(taken, list):
        raise UserError(
            f"{net.name} cannot be cut at {layer}: it joins {len(taken)} branches; name a layer "
            "that takes all that is computed before it."
        )
    try:
        trunk, top = tf.keras.Model(net.inputs[0], taken), tf.keras.Model(taken, net.outputs[0])
    except ValueError as error:
        raise UserError(
            f"{net.name} cannot be cut at {layer}: a branch leads around it; name a layer that "
            "takes all that is computed before it."
        ) from error
    trunk.trainable = False
    return trunk, top
