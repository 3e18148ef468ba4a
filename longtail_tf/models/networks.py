"""The embedder: images in 0..255 to features, a backbone between pixels and a projection.

    images -> normalise -> backbone -> pool -> features

`settings.backbones` lists what the backbone can be and which pixels it wants; normalisation is
inside, so every artefact takes plain pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Optional

import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.models import (
    backbone_weights,
    cifar_resnet,
    efficientnet_lite,
    keras_applications,
    keras_cv_backbones,
    keras_hub_backbone,
    own_backbone,
)
from longtail_tf.models.cut import cut_at
from longtail_tf.models.parts import POOL, PROJECTION, WHITENING, projection, whitening
from longtail_tf.models.pixels import normalised
from longtail_tf.settings.backbones import HEAD, check_cut, check_imagenet, facts

layers = tf.keras.layers

USUAL_WIDTH = 16


def build_embedder(
    *,
    backbone: str,
    image_size: int,
    channels: int,
    embedding_dim: int,
    width: Optional[int] = None,
    weights: str = "",
    pixel_range: str = "auto",
    precision: str = "float32",
    whitened: bool = False,
) -> tf.keras.Model:
    """Builds images [B, S, S, C] in 0..255 -> features float32 [B, D], before the neck.

    Args:
      backbone: a name, file or preset as `settings.backbones.facts` knows it.
      image_size: S, in pixels.
      channels: C, 1 or 3; all but the CIFAR-stem nets see a grey image three times.
      embedding_dim: D; 0 for all features of the backbone, without a projection.
      width: first-stage channels of a CIFAR-stem net, 16 where None; the stages have 1, 2 and 4
        times as many. Other backbones have no such choice.
      weights: "" for random weights (or those in the user's own file), "imagenet", or a file that
        `backbone_weights.load` can read.
      pixel_range: what the backbone is fed, one of `settings.backbones.PIXEL_RANGES`; "auto" for
        what the table says of it.
      precision: "float32" or "bfloat16"; the features are float32 in both.
      whitened: a fixed map to D numbers below the projection, which training does not move.

    Raises:
      UserError: weights that do not exist, cannot be fetched, or do not fit.
    """
    entry = facts(backbone)
    images = tf.keras.Input((image_size, image_size, channels), name="images")
    with _compute_in(precision):
        seen = channels if entry.family in ("cifar", "own") else 3
        net = _backbone(backbone, (image_size, image_size, seen), width=width, weights=weights)
        seen = net.inputs[0].shape[-1]  # a network of the user's own may see grey images
        fed = entry.pixel_range if pixel_range == "auto" else pixel_range
        pixels = normalised(images, fed, channels=seen)
        features = _pooled(net(pixels))
    if embedding_dim:
        if whitened:
            fixed = layers.Dense(embedding_dim, dtype="float32", name=WHITENING, trainable=False)
            features = fixed(features)
        project = layers.Dense(embedding_dim, use_bias=False, dtype="float32", name=PROJECTION)
        features = project(features)
    embedder = tf.keras.Model(images, features, name="embedder")
    embedder.backbone = backbone  # whose parts it can be cut at
    return embedder


def backbone_of(embedder: tf.keras.Model) -> tf.keras.Model:
    """The backbone inside an embedder made by `build_embedder`."""
    return embedder.get_layer("backbone")


def split_embedder(embedder: tf.keras.Model, cut: str) -> tuple[tf.keras.Model, tf.keras.Model]:
    """Cuts an embedder in two that share its weights: `top(trunk(images))` equals
    `embedder(images)`.

    The trunk stands still, in the embedder as well (see `cut.cut_at`).

    Args:
      embedder: from `build_embedder`.
      cut: a part of the backbone, the first that trains (`settings.backbones.cut_names`); a layer
        of a backbone of the user's own; or "head" for the embedding alone.

    Returns:
      trunk: images -> feature map [B, h, w, c], or, below "head", all features float32 [B, F].
      top: that -> features float32 [B, D].

    Raises:
      UserError: the backbone has no such part, or its layer is none to cut at.
    """
    backbone = embedder.backbone
    check_cut(backbone, cut)
    if cut == HEAD:
        trunk = _model(embedder.inputs[0], embedder.get_layer(POOL).output)
        vectors = tf.keras.Input(trunk.output_shape[1:], name="vectors")
        top = _model(vectors, _projected(embedder, vectors))
    else:
        net = backbone_of(embedder)
        lower, upper = cut_at(net, _first_layer(net, facts(backbone).stages.get(cut, cut)))
        trunk = _model(embedder.inputs[0], lower(embedder.get_layer("normalise").output))
        maps = tf.keras.Input(upper.inputs[0].shape[1:], dtype=upper.inputs[0].dtype, name="maps")
        top = _model(maps, _projected(embedder, embedder.get_layer(POOL)(upper(maps))))
    trunk.trainable = False
    return trunk, top


def _projected(embedder: tf.keras.Model, features: tf.Tensor) -> tf.Tensor:
    """Features through the layers of the embedder above its pool; itself where there are none."""
    above = [layer for layer in (whitening(embedder), projection(embedder)) if layer is not None]
    if not above and features.name.startswith("vectors"):  # a model needs a layer
        return layers.Activation("linear", dtype="float32", name=POOL)(features)
    for layer in above:
        features = layer(features)
    return features


def _model(inputs: tf.Tensor, outputs: tf.Tensor) -> tf.keras.Model:
    return tf.keras.Model(inputs, outputs)


def _first_layer(net: tf.keras.Model, block: str) -> str:
    """The first layer of a block: Keras versions end their names differently."""
    for layer in net.layers:
        name = layer.name.lower()
        if name == block.lower() or name.startswith((f"{block.lower()}_", f"{block.lower()}/")):
            return layer.name
    return block


def _pooled(found: tf.Tensor) -> tf.Tensor:
    """A feature map or a row of tokens to one vector float32 [B, F]; a vector stays as it is."""
    rank = len(found.shape)
    if rank == 4:
        return layers.GlobalAveragePooling2D(dtype="float32", name=POOL)(found)
    if rank == 3:
        return layers.GlobalAveragePooling1D(dtype="float32", name=POOL)(found)
    return layers.Activation("linear", dtype="float32", name=POOL)(found)


def _backbone(
    name: str, input_shape: tuple[int, int, int], *, width: Optional[int], weights: str
) -> tf.keras.Model:
    """A functional model called "backbone", with the weights that were asked for."""
    family = facts(name).family
    imagenet = weights == "imagenet"
    if imagenet:
        check_imagenet(name)
    if family == "cifar":
        net = cifar_resnet.build(name, input_shape=input_shape, width=width or USUAL_WIDTH)
    elif family == "lite":
        net = efficientnet_lite.build(name, input_shape=input_shape)
        if imagenet:
            backbone_weights.load_packaged(net, name)
    elif family == "keras":
        net = keras_applications.build(name, input_shape=input_shape, imagenet=imagenet)
    elif family == "keras_cv":
        net = keras_cv_backbones.build(name, input_shape=input_shape, imagenet=imagenet)
    elif family == "keras_hub":
        net = keras_hub_backbone.build(name, input_shape=input_shape)
    else:
        net = own_backbone.build(name, input_shape=input_shape)
    _still(net)
    net = tf.keras.Model(net.inputs[0], net.outputs[0], name="backbone")
    if weights and not imagenet:
        backbone_weights.load(net, weights, backbone=name)
    return net


def _still(net: tf.keras.Model) -> None:
    """Turns dropout off: its draws cannot be repeated after a resume."""
    for layer in keras_version.all_layers(net):
        if "dropout" in type(layer).__name__.lower() and hasattr(layer, "rate"):
            layer.rate = 0.0


@contextlib.contextmanager
def _compute_in(precision: str) -> Iterator[None]:
    """Layers made inside compute in `precision` with float32 variables.

    Layers of others know only the global policy, so it is set and put back.
    """
    before = tf.keras.mixed_precision.global_policy()
    name = precision if precision == "float32" else f"mixed_{precision}"
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
