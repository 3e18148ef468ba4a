"""Backbones of tf.keras.applications, without their classifiers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.settings.backbones import TABLE

_CLASSES = {
    f"keras_{name.lower()}": name
    for name in (
        *("MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
        *("EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
        *("EfficientNetV2S", "ResNet50", "ResNet50V2", "DenseNet121"),
        *("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase"),
    )
}
# Their normalisation can be left out of the network; that of the others is a function beside it.
_NORMALISING = ("MobileNetV3", "EfficientNetV2", "ConvNeXt")
_LEAST_PX = 32


def build(name: str, *, input_shape: tuple[int, int, int], imagenet: bool) -> tf.keras.Model:
    """Builds one with random or ImageNet weights; nothing in it draws at random.

    Args:
      name: of a backbone of the family "keras".
      input_shape: height, width and 3 channels; 32 px at least.
      imagenet: fetch ImageNet weights, once; Keras keeps them in its cache.

    Returns:
      Pixels float32 [B, H, W, 3] in the range that the table gives -> feature map.

    Raises:
      UserError: images too small; the weights cannot be fetched.
    """
    if min(input_shape[:2]) < _LEAST_PX:
        raise UserError(
            f"--backbone={name} needs images of {_LEAST_PX} px or more, not "
            f"{min(input_shape[:2])}: set --image_size, or choose resnet20."
        )
    net = _construct(name, input_shape, weights=None)
    if imagenet:
        # At their own size: Keras keeps other MobileNetV2 weights for each size, and warns.
        side = TABLE[name].image_size
        try:
            net.set_weights(_construct(name, (side, side, 3), weights="imagenet").get_weights())
        except Exception as error:  # whatever the download raises
            raise UserError(
                f"--weights=imagenet: the weights of {name} could not be downloaded "
                f"({type(error).__name__}): go online once, give the .h5 file of "
                f"tf.keras.applications.{_CLASSES[name]} with --weights=FILE.h5, or choose "
                "--backbone=efficientnet_lite0, whose weights come with the installation."
            ) from error
    return net


def _construct(name: str, input_shape: tuple[int, int, int], *, weights: Any) -> tf.keras.Model:
    construct = getattr(tf.keras.applications, _CLASSES[name])
    plain = {"include_preprocessing": False} if _CLASSES[name].startswith(_NORMALISING) else {}
    return construct(include_top=False, weights=weights, input_shape=input_shape, **plain)
