"""Backbones of keras-cv, by their explicit constructors.

Its presets and alias classes fetch their configuration online; these are built offline, and only
their ImageNet weights are fetched.
"""

from __future__ import annotations

import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError

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


def build(name: str, *, input_shape: tuple[int, int, int], imagenet: bool) -> tf.keras.Model:
    """Builds one with random or ImageNet weights.

    Args:
      name: of a backbone of the family "keras_cv".
      input_shape: height, width and 3 channels.
      imagenet: fetch ImageNet weights.

    Returns:
      Pixels float32 [B, H, W, 3] -> feature map.

    Raises:
      UserError: the weights do not exist or cannot be fetched.
    """
    models = quiet_imports.keras_cv().models
    if imagenet:
        net = _imagenet_backbone(name, input_shape)
    elif name in _RESNET_V2_BLOCKS:
        blocks, block_type = _RESNET_V2_BLOCKS[name]
        net = models.ResNetV2Backbone(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=blocks,
            stackwise_strides=[1, 2, 2, 2],
            block_type=block_type,
            include_rescaling=False,
            input_shape=input_shape,
        )
    elif name in _MOBILENET:
        net = models.MobileNetV3Backbone(
            include_rescaling=False, input_shape=input_shape, **_MOBILENET[name]
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
            input_shape=input_shape,
            **_EFFICIENTNET[name],
        )
    return tf.keras.Model(net.inputs, net.outputs[0], name="backbone")


def _imagenet_backbone(name: str, input_shape: tuple[int, int, int]) -> tf.keras.Model:
    if name not in _IMAGENET_PRESETS:
        raise UserError(
            f"--weights=imagenet: keras-cv has no ImageNet weights for --backbone={name}; it has "
            f"them for {', '.join(_IMAGENET_PRESETS)}."
        )
    try:
        return quiet_imports.keras_cv().models.Backbone.from_preset(
            _IMAGENET_PRESETS[name], input_shape=input_shape, include_rescaling=False
        )
    except Exception as error:  # whatever the download library raises
        raise UserError(
            f"--weights=imagenet: the weights of {name} could not be downloaded "
            f"({type(error).__name__}): go online once, or give --weights=FILE.weights.h5."
        ) from error
