"""The random window of `resized_crop`: where it lies, a pure function of four uniform draws.

Inception's crop (Szegedy 2015, arXiv:1409.4842, section 6): a share of the image's area and a shape
are drawn, then a place. There a window that does not fit is drawn again; here its shape gives way
until it fits, so that the area is always the one drawn and one draw is always enough.
"""

from __future__ import annotations

import math

import tensorflow as tf

LEAST_AREA = 0.3  # a window of 0.08, as the paper has it, often misses the object of a small image
WIDEST = 4 / 3
WINDOW_DRAWS = 4


def window_shares(draws: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Height and width of the window, in shares of the image's own.

    Args:
      draws: uniform [4] or [4, B] in [0, 1): area, shape (width to height, 3/4 to 4/3, uniform in
        its logarithm), place down, place right.
      size: int [2]: height and width of the image, px.

    Returns:
      float32 [2] or [2, B] in (0, 1]; their product is the area drawn.
    """
    area = LEAST_AREA + (1 - LEAST_AREA) * draws[0]
    shape = tf.exp(math.log(WIDEST) * (2 * draws[1] - 1))
    image_shape = tf.cast(size[1], tf.float32) / tf.cast(size[0], tf.float32)
    height = tf.clip_by_value(tf.sqrt(area * image_shape / shape), area, 1.0)
    return tf.stack([height, area / height])


def pixel_window(shares: tf.Tensor, draws: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The window in whole pixels of an image, at whatever scale it is decoded.

    Args:
      shares: of `window_shares`.
      draws: as there.
      size: int [2]: height and width of the image at this scale, px.

    Returns:
      int32 [4] or [4, B]: top, left, height, width; inside the image, 1 px or more a side.
    """
    size = tf.cast(size, tf.float32)
    if shares.shape.rank == 2:
        size = size[:, tf.newaxis]
    extent = tf.clip_by_value(tf.round(shares * size), 1.0, size)
    begin = tf.minimum(tf.floor(draws[2:4] * (size - extent + 1)), size - extent)
    return tf.cast(tf.concat([begin, extent], 0), tf.int32)


def cut_window(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """The drawn window of one image: [H, W, C] to [h, w, C]."""
    size = tf.shape(pixels)[:2]
    top, left, height, width = tf.unstack(pixel_window(window_shares(draws, size), draws, size))
    return pixels[top : top + height, left : left + width]
