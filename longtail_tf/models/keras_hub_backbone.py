"""Backbones of keras-hub (Python 3.12 on, an optional extra): `--backbone=keras_hub:PRESET`.

PRESET is a name that keras-hub fetches, or a folder that `save_to_preset` wrote, with the image
converter beside the backbone: it says how pixels are normalised. What was run: small random ViT,
DINOv2, SigLIP and ResNet presets from folders, keras-hub 0.32; presets by name need a download.
"""

from __future__ import annotations

import pathlib
from typing import Any

import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.settings.backbones import HUB

layers = tf.keras.layers

# Their first token speaks for the image; of others the mean of all tokens does.
_CLASS_TOKEN = ("ViTBackbone", "DINOV2Backbone", "DINOV3Backbone", "DeiTBackbone", "CLIPVision")


def build(backbone: str, *, input_shape: tuple[int, int, int]) -> tf.keras.Model:
    """Builds the preset with its weights.

    Args:
      backbone: "keras_hub:" and the preset.
      input_shape: height, width and 3 channels.

    Returns:
      Pixels float32 [B, H, W, 3] in 0..255 -> feature map, tokens, or one vector [B, F].

    Raises:
      UserError: keras-hub is not installed, the preset cannot be loaded, or it takes images of
        another size.
    """
    preset = backbone[len(HUB) :]
    hub = quiet_imports.keras_hub()
    found = _vision(_loaded(hub, backbone, preset))
    side = input_shape[0]
    wanted = (getattr(found, "image_shape", None) or (None,))[0]
    if wanted not in (None, side):
        try:  # many can: convolutions, and position embeddings that are interpolated
            found = _vision(hub.models.Backbone.from_preset(preset, image_shape=input_shape))
        except Exception as error:
            raise UserError(
                f"--backbone={backbone} takes images of {wanted} px, not of {side}: set "
                f"--image_size={wanted}."
            ) from error
    images = tf.keras.Input(input_shape, name="images")
    try:
        converter = hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:  # whatever its loader raises where there is none
        raise UserError(
            f"--backbone={backbone} does not say how its pixels are normalised "
            f"({_first_line(error)}): save its image converter beside it with save_to_preset."
        ) from error
    pixels = images
    if converter.scale is not None or converter.offset is not None:
        scale = 1.0 if converter.scale is None else converter.scale
        offset = 0.0 if converter.offset is None else converter.offset
        pixels = layers.Rescaling(scale, offset, name="as_the_preset_says")(images)
    # Some take a dictionary of one tensor; over its tensors every model is called alike.
    features = tf.keras.Model(found.inputs[0], found.outputs[0])(pixels)
    if type(found).__name__.startswith(_CLASS_TOKEN) and len(features.shape) == 3:
        features = features[:, 0]
    return tf.keras.Model(images, features)


def keep(backbone: str, folder: pathlib.Path) -> None:
    """Saves the preset into a new folder, so that what was built of it can be built again.

    Raises:
      UserError: as `build`.
    """
    preset = backbone[len(HUB) :]
    hub = quiet_imports.keras_hub()
    _loaded(hub, backbone, preset).save_to_preset(str(folder))
    hub.layers.ImageConverter.from_preset(preset).save_to_preset(str(folder))


def _loaded(hub: Any, backbone: str, preset: str) -> Any:
    try:
        return hub.models.Backbone.from_preset(preset)
    except Exception as error:  # whatever its download and its loader raise
        raise UserError(
            f"--backbone={backbone} cannot be loaded ({_first_line(error)}): go online once for a "
            "preset by name, or give the folder that save_to_preset wrote."
        ) from error


def _vision(found: Any) -> Any:
    """The part of a model of images and text that sees."""
    return getattr(found, "vision_encoder", found)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".:") if str(error) else type(error).__name__
