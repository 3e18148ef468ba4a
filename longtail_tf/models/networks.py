"""The embedder: images in 0..255 to features, built offline from explicit arguments.

Small images get our own CIFAR-stem ResNet (He 2016, arXiv:1512.03385, section 4.2): a keras-cv stem
takes 32x32 down to 8x8 before the first block. Larger ones get keras-cv backbones through their
explicit constructors, because presets and alias classes fetch their configuration online.
Normalisation to -1..1 is the first layer, so every artefact takes plain pixels.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Optional

import tensorflow as tf

from longtail_tf.compat import keras_version, quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.models.replicas import batch_norm
from longtail_tf.settings.choices import CIFAR_BACKBONES

layers = tf.keras.layers

USUAL_WIDTH = 16

# EfficientNetV2 (Tan 2021, arXiv:2104.00298, table 4) and MobileNetV3 (Howard 2019,
# arXiv:1905.02244, tables 1 and 2) as keras-cv spells them.
_EFFICIENTNET = {
    "efficientnetv2_b0": dict(
        stackwise_num_repeats=[1, 2, 2, 3, 5, 8],
        stackwise_input_filters=[32, 16, 32, 48, 96, 112],
        stackwise_output_filters=[16, 32, 48, 96, 112, 192],
    ),
    "efficientnetv2_s": dict(
        stackwise_num_repeats=[2, 4, 4, 6, 9, 15],
        stackwise_input_filters=[24, 24, 48, 64, 128, 160],
        stackwise_output_filters=[24, 48, 64, 128, 160, 256],
    ),
}
_MOBILENET = {
    "mobilenetv3_small": dict(
        stackwise_expansion=[1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        stackwise_filters=[16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        stackwise_kernel_size=[3] * 3 + [5] * 8,
        stackwise_stride=[2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
        stackwise_se_ratio=[0.25, None, None] + [0.25] * 8,
        stackwise_activation=["relu"] * 3 + ["hard_swish"] * 8,
    ),
    "mobilenetv3_large": dict(
        stackwise_expansion=[1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
        stackwise_filters=[16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
        stackwise_kernel_size=[3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
        stackwise_stride=[1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
        stackwise_se_ratio=[None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
        stackwise_activation=["relu"] * 6 + ["hard_swish"] * 9,
    ),
}
_RESNET_V2_BLOCKS = {
    "resnet18v2": ([2, 2, 2, 2], "basic_block"),
    "resnet34v2": ([3, 4, 6, 3], "basic_block"),
    "resnet50v2": ([3, 4, 6, 3], "block"),
    "resnet101v2": ([3, 4, 23, 3], "block"),
}
_IMAGENET_PRESETS = {
    "resnet50v2": "resnet50_v2_imagenet",
    "efficientnetv2_b0": "efficientnetv2_b0_imagenet",
    "efficientnetv2_s": "efficientnetv2_s_imagenet",
    "mobilenetv3_small": "mobilenet_v3_small_imagenet",
    "mobilenetv3_large": "mobilenet_v3_large_imagenet",
}


def build_embedder(
    *,
    backbone: str,
    image_size: int,
    channels: int,
    embedding_dim: int,
    width: Optional[int] = None,
    weights: str = "",
    zero_to_one: bool = False,
    precision: str = "float32",
) -> tf.keras.Model:
    """Builds images [B, S, S, C] in 0..255 -> features float32 [B, D], before the neck.

    Args:
      backbone: a name from `backbone_names.BACKBONES`.
      image_size: S, in pixels.
      channels: C, 1 or 3; a keras-cv backbone sees a grey image three times.
      embedding_dim: D.
      width: first-stage channels of a CIFAR-stem net, 16 where None; the stages have 1, 2 and 4
        times as many. Other backbones have no such choice.
      weights: "" for random weights, "imagenet", or a `.weights.h5` file of the backbone.
      zero_to_one: scale pixels to 0..1, as keras-cv's ImageNet weights expect, not to -1..1.
      precision: "float32" or "bfloat16"; the features are float32 in both.

    Raises:
      UserError: weights that do not exist, cannot be fetched, or do not fit.
    """
    images = tf.keras.Input((image_size, image_size, channels), name="images")
    with _compute_in(precision):
        if backbone in CIFAR_BACKBONES:
            net = _cifar_resnet(backbone, (image_size, image_size, channels), width or USUAL_WIDTH)
            pixels = images
        else:
            net = _keras_cv_backbone(backbone, (image_size, image_size, 3), weights)
            pixels = (
                layers.Concatenate(name="grey_as_rgb")([images] * 3) if channels == 1 else images
            )
        scale, offset = (1 / 255, 0.0) if zero_to_one else (1 / 127.5, -1.0)
        pixels = layers.Rescaling(scale, offset, name="normalise")(pixels)
        pooled = layers.GlobalAveragePooling2D(name="pool")(net(pixels))
    features = layers.Dense(embedding_dim, use_bias=False, dtype="float32", name="features")(pooled)
    embedder = tf.keras.Model(images, features, name="embedder")
    if weights not in ("", "imagenet"):
        _load_backbone_weights(net, weights)
    return embedder


def backbone_of(embedder: tf.keras.Model) -> tf.keras.Model:
    """The backbone inside an embedder made by `build_embedder`."""
    return embedder.get_layer("backbone")


@contextlib.contextmanager
def _compute_in(precision: str) -> Iterator[None]:
    """Layers made inside compute in `precision` with float32 variables.

    keras-cv layers know only the global policy, so it is set and put back.
    """
    before = tf.keras.mixed_precision.global_policy()
    name = precision if precision == "float32" else f"mixed_{precision}"
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _cifar_resnet(name: str, shape: tuple[int, int, int], width: int) -> tf.keras.Model:
    """3x3 stem, three stages of n basic blocks at 1, 2, 4 x width, strides 1, 2, 2."""
    blocks = (int(name[len("resnet") :]) - 2) // 6
    inputs = tf.keras.Input(shape)
    x = _conv_norm(inputs, width, 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    return tf.keras.Model(inputs, x, name="backbone")


def _basic_block(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _conv_norm(x, filters, 1, stride, f"{name}_shortcut")
    x = layers.ReLU(name=f"{name}_relu1")(_conv_norm(x, filters, 3, stride, f"{name}_1"))
    x = _conv_norm(x, filters, 3, 1, f"{name}_2")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _conv_norm(x: tf.Tensor, filters: int, size: int, stride: int, name: str) -> tf.Tensor:
    x = layers.Conv2D(
        filters,
        size,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return batch_norm(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def _keras_cv_backbone(name: str, shape: tuple[int, int, int], weights: str) -> tf.keras.Model:
    models = quiet_imports.keras_cv().models
    if weights == "imagenet":
        net = _imagenet_backbone(name, shape)
    elif name in _RESNET_V2_BLOCKS:
        blocks, block_type = _RESNET_V2_BLOCKS[name]
        net = models.ResNetV2Backbone(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=blocks,
            stackwise_strides=[1, 2, 2, 2],
            block_type=block_type,
            include_rescaling=False,
            input_shape=shape,
        )
    elif name in _MOBILENET:
        net = models.MobileNetV3Backbone(
            include_rescaling=False, input_shape=shape, **_MOBILENET[name]
        )
    else:
        net = models.EfficientNetV2Backbone(
            include_rescaling=False,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            stackwise_kernel_sizes=[3] * 6,
            stackwise_expansion_ratios=[1, 4, 4, 4, 6, 6],
            stackwise_squeeze_and_excite_ratios=[0, 0, 0, 0.25, 0.25, 0.25],
            stackwise_strides=[1, 2, 2, 2, 1, 2],
            stackwise_conv_types=["fused"] * 3 + ["unfused"] * 3,
            skip_connection_dropout=0.0,  # a stateful dropout would break exact resume
            input_shape=shape,
            **_EFFICIENTNET[name],
        )
    return tf.keras.Model(net.inputs, net.outputs[0], name="backbone")


def _imagenet_backbone(name: str, shape: tuple[int, int, int]) -> tf.keras.Model:
    if name not in _IMAGENET_PRESETS:
        raise UserError(
            f"--weights=imagenet: keras-cv has no ImageNet weights for --backbone={name}; it has "
            f"them for {', '.join(_IMAGENET_PRESETS)}."
        )
    try:
        return quiet_imports.keras_cv().models.Backbone.from_preset(
            _IMAGENET_PRESETS[name], input_shape=shape, include_rescaling=False
        )
    except Exception as error:  # whatever the download library raises
        raise UserError(
            f"--weights=imagenet: the weights of {name} could not be downloaded "
            f"({type(error).__name__}): go online once, or give --weights=FILE.weights.h5."
        ) from error


def _load_backbone_weights(net: tf.keras.Model, path: str) -> None:
    if not pathlib.Path(path).is_file():
        raise UserError(
            f"--weights={path}: there is no such file; give imagenet, a run folder, or a "
            ".weights.h5 file saved from the same backbone."
        )
    try:
        keras_version.load_all_weights(net, path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--weights={path} does not fit this --backbone and --width: {reason}"
        ) from error
