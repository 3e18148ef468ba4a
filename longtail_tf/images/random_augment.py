"""RandAugment over a whole batch at once, with label-preserving operations only.

Cubuk 2020, arXiv:1909.13719: each image gets two operations out of ten at a drawn strength. Here
an operation that an image did not draw has the strength that changes nothing, so a batch takes
one affine warp, one table lookup and one colour matrix, whatever was drawn. Inversion,
solarisation and equalisation are left out: they can turn one class into another (flowers, labels,
characters).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from longtail_tf.images.preprocess import round_to_uint8

_OPERATIONS_PER_IMAGE = 2
_MAX_ANGLE_RAD = 0.35  # 20 degrees
_MAX_SHEAR = 0.2
_MAX_SHIFT = 0.12  # of the side
_MAX_BRIGHTNESS = 64.0
_MAX_FACTOR = 0.6  # contrast and saturation: 1 +- this
_GEOMETRIC = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")
_COLOUR = ("brightness", "contrast", "autocontrast", "posterize")


def random_augment(images: tf.Tensor, draws: Callable[[int], tf.Tensor]) -> tf.Tensor:
    """Two operations on each image.

    Args:
      images: uint8 [B, S, S, C], all static.
      draws: gives uniform [number, B] in [0, 1).

    Returns:
      uint8 [B, S, S, C].
    """
    names = _GEOMETRIC + _COLOUR + (("saturation",) if images.shape[3] == 3 else ())
    uniform = draws(2 * len(names))
    lots, strengths = uniform[: len(names)], 2 * uniform[len(names) :] - 1
    # The two highest lots of an image win: two different operations.
    lowest_winner = tf.math.top_k(tf.transpose(lots), k=_OPERATIONS_PER_IMAGE).values[:, -1]
    drawn = lots >= lowest_winner
    strength = dict(zip(names, tf.unstack(tf.where(drawn, strengths, 0.0))))
    images = warp(images, **{name: strength[name] for name in _GEOMETRIC})
    images = recolour(images, **{name: strength[name] for name in _COLOUR})
    return saturate(images, strength["saturation"]) if "saturation" in names else images


def warp(
    images: tf.Tensor,
    *,
    rotate: tf.Tensor,
    shear_x: tf.Tensor,
    shear_y: tf.Tensor,
    shift_x: tf.Tensor,
    shift_y: tf.Tensor,
) -> tf.Tensor:
    """One affine warp an image about its centre, bilinear, border repeated.

    Args:
      images: uint8 [B, S, S, C].
      rotate, shear_x, shear_y, shift_x, shift_y: float32 [B] in -1..1, 0 does nothing.
    """
    size = images.shape[1]
    cos, sin = tf.cos(rotate * _MAX_ANGLE_RAD), tf.sin(rotate * _MAX_ANGLE_RAD)
    shear_x, shear_y = shear_x * _MAX_SHEAR, shear_y * _MAX_SHEAR
    x_from_x, x_from_y = cos + shear_x * sin, shear_x * cos - sin
    y_from_x, y_from_y = sin + shear_y * cos, cos - shear_y * sin
    centre = (size - 1) / 2
    x_offset = centre * (1 - x_from_x - x_from_y) + shift_x * _MAX_SHIFT * size
    y_offset = centre * (1 - y_from_x - y_from_y) + shift_y * _MAX_SHIFT * size
    zero = tf.zeros_like(rotate)
    transforms = tf.stack(
        [x_from_x, x_from_y, x_offset, y_from_x, y_from_y, y_offset, zero, zero], axis=1
    )
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.ensure_shape(warped, images.shape)


def recolour(
    images: tf.Tensor,
    *,
    brightness: tf.Tensor,
    contrast: tf.Tensor,
    autocontrast: tf.Tensor,
    posterize: tf.Tensor,
) -> tf.Tensor:
    """Contrast, brightness, stretch to 0..255 and fewer levels: one table of 256 an image.

    Args:
      images: uint8 [B, S, S, C].
      brightness, contrast, autocontrast, posterize: float32 [B] in -1..1, 0 does nothing;
        autocontrast blends with the stretched image by the absolute value.
    """
    batch_size = images.shape[0]
    pixels = tf.cast(tf.reshape(images, [batch_size, -1]), tf.int32)
    # Sums of integers are exact, so the bits do not depend on the order of summation.
    mean = tf.cast(tf.reduce_sum(pixels, 1, keepdims=True), tf.float32) / pixels.shape[1]
    low, high = (
        tf.cast(reduce(pixels, 1, keepdims=True), tf.float32)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    level = tf.range(256, dtype=tf.float32)[tf.newaxis]
    stretched = (level - low) * 255 / tf.maximum(high - low, 1)
    level += tf.abs(autocontrast)[:, tf.newaxis] * (stretched - level)
    level += contrast[:, tf.newaxis] * _MAX_FACTOR * (level - mean)
    level += brightness[:, tf.newaxis] * _MAX_BRIGHTNESS
    table = round_to_uint8(level)
    dropped_bits = tf.cast(tf.round(tf.abs(posterize) * 4), tf.uint8)
    mask = tf.bitwise.left_shift(tf.constant(255, tf.uint8), dropped_bits)
    table = tf.bitwise.bitwise_and(table, mask[:, tf.newaxis])
    places = pixels + 256 * tf.range(batch_size)[:, tf.newaxis]
    return tf.reshape(tf.gather(tf.reshape(table, [-1]), places), images.shape)


def saturate(images: tf.Tensor, saturation: tf.Tensor) -> tf.Tensor:
    """Stronger or weaker colours: away from or towards the grey image.

    Args:
      images: uint8 [B, S, S, 3].
      saturation: float32 [B] in -1..1, 0 does nothing.
    """
    factor = (1 + saturation * _MAX_FACTOR)[:, tf.newaxis, tf.newaxis]
    grey = tf.constant([[0.299], [0.587], [0.114]]) * tf.ones([1, 3])
    matrices = factor * tf.eye(3) + (1 - factor) * grey
    batch_size, size = images.shape[:2]
    pixels = tf.reshape(tf.cast(images, tf.float32), [batch_size, size * size, 3])
    return tf.reshape(round_to_uint8(pixels @ matrices), images.shape)
