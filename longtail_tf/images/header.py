"""Size of an image from its first bytes, in a graph: known before anything is decoded."""

from __future__ import annotations

import tensorflow as tf

_HEADER_BYTES = 32


def read_header(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(is BMP, height, width) as a PNG, GIF or BMP declares them; 0 x 0 for anything else.

    Anything else goes on to the decoder, whose message names the formats it takes.
    """
    head = tf.strings.substr(image_bytes, 0, _HEADER_BYTES)
    head = tf.strings.substr(tf.strings.join([head, b"\0" * _HEADER_BYTES]), 0, _HEADER_BYTES)
    head = tf.cast(tf.ensure_shape(tf.io.decode_raw(head, tf.uint8), [_HEADER_BYTES]), tf.int64)

    def starts_with(magic: bytes) -> tf.Tensor:
        return tf.reduce_all(head[: len(magic)] == tf.constant(list(magic), tf.int64))

    def number(at: int, size: int, *, big_endian: bool) -> tf.Tensor:
        weights = [256**i for i in range(size)]
        return tf.reduce_sum(
            head[at : at + size] * tf.constant(weights[::-1] if big_endian else weights, tf.int64)
        )

    def bmp_side(at: int) -> tf.Tensor:  # signed: stored from the top, its height is negative
        value = number(at, 4, big_endian=False)
        return tf.abs(tf.where(value >= 2**31, value - 2**32, value))

    is_png, is_gif, is_bmp = starts_with(b"\x89PNG"), starts_with(b"GIF8"), starts_with(b"BM")
    sizes = [
        tf.stack([number(20, 4, big_endian=True), number(16, 4, big_endian=True)]),
        tf.stack([number(8, 2, big_endian=False), number(6, 2, big_endian=False)]),
        tf.stack([bmp_side(22), bmp_side(18)]),
    ]
    size = tf.add_n([tf.where(f, s, 0) for f, s in zip((is_png, is_gif, is_bmp), sizes)])
    return is_bmp, size[0], size[1]
