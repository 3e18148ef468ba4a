"""Plain pixels to the range a backbone was made for, as layers inside the network.

So every artefact, from the training to the phone, takes pixels in 0..255 as they are decoded.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

layers = tf.keras.layers

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, on the scale 0..1
_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red, on the scale 0..255

# scale and offset of each channel, in the order the network wants them
_LINES: dict[str, tuple[Any, Any]] = {
    "-1..1": (1 / 127.5, -1.0),
    "0..1": (1 / 255, 0.0),
    "0..255": (1.0, 0.0),
    "imagenet": (
        [1 / (255 * deviation) for deviation in _DEVIATION],
        [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION)],
    ),
    "caffe": ([1.0] * 3, [-mean for mean in _CAFFE_MEAN]),
}


def normalised(images: tf.Tensor, pixel_range: str, *, channels: int) -> tf.Tensor:
    """Images [B, S, S, C] in 0..255 -> [B, S, S, channels] in `pixel_range`.

    Args:
      images: a symbolic tensor; C is 1 or 3.
      pixel_range: one of `settings.backbones.PIXEL_RANGES`.
      channels: that the backbone takes; 3 shows it a grey image three times.
    """
    if channels != images.shape[-1]:
        images = layers.Concatenate(name="grey_as_rgb")([images] * channels)
    if pixel_range == "caffe":
        images = images[..., ::-1]
    scale, offset = _LINES[pixel_range]
    return layers.Rescaling(scale, offset, name="normalise")(images)
