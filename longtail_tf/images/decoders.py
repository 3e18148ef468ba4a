"""Traced preprocessing of a batch: once a process for each shape, not once a reader."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from longtail_tf.images.preprocess import preprocess_bytes, preprocess_images
from longtail_tf.images.window import WINDOW_DRAWS, cut_window

Shape = tuple[int, int, int]


@functools.cache
def decoder(shape: Shape) -> Callable[[tf.Tensor], tf.Tensor]:
    """Bytes string [N] to uint8 [N, S, S, C]; fails as a whole where one image is bad."""
    one = functools.partial(preprocess_bytes, image_size=shape[0], channels=shape[2])
    return tf.function(
        functools.partial(_one_by_one, one, shape),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


@functools.cache
def window_decoder(shape: Shape) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """As `decoder`, of each image's window by draws float32 [N, 4]."""

    def one(image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return preprocess_bytes(
            image[0], image_size=shape[0], channels=shape[2], window_draws=image[1]
        )

    def decode(image_bytes: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return _one_by_one(one, shape, (image_bytes, draws))

    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, WINDOW_DRAWS])]
    return tf.function(decode, input_signature=signature, autograph=False)


@functools.cache
def resizer(shape: Shape, read_shape: Shape) -> Callable[[tf.Tensor], tf.Tensor]:
    """Pixels uint8 [N, *read_shape] to uint8 [N, S, S, C]."""

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        return preprocess_images(pixels, image_size=shape[0], channels=shape[2])

    spec = tf.TensorSpec((None, *read_shape), tf.uint8)
    return tf.function(resize, input_signature=[spec], autograph=False)


@functools.cache
def window_resizer(shape: Shape, read_shape: Shape) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """As `resizer`, of each image's window by draws float32 [N, 4]."""

    def one(image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        window = cut_window(*image)[tf.newaxis]
        return preprocess_images(window, image_size=shape[0], channels=shape[2])[0]

    def resize(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return _one_by_one(one, shape, (pixels, draws))

    signature = [
        tf.TensorSpec((None, *read_shape), tf.uint8),
        tf.TensorSpec([None, WINDOW_DRAWS]),
    ]
    return tf.function(resize, input_signature=signature, autograph=False)


def _one_by_one(one: Callable, shape: Shape, elements: tf.Tensor | tuple) -> tf.Tensor:
    return tf.map_fn(
        one,
        elements,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        parallel_iterations=1,  # the other cores are busy with other batches
    )
