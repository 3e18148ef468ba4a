"""ResNets for small images: a 3x3 stem keeps their resolution until the second stage.

He 2016 (arXiv:1512.03385), section 4.2, the networks of the field's benchmarks. Other stems take
32x32 down to 8x8 before the first block.
"""

from __future__ import annotations

import tensorflow as tf

from longtail_tf.models.replicas import batch_norm

layers = tf.keras.layers

# On maps of fewer channels than a vector register holds numbers (16 in AVX-512), oneDNN's gradient
# of a strided 1x1 kernel writes past its memory: wrong numbers, or a crash (oneDNN, issue 6035).
_NARROW = 16


def build(name: str, *, input_shape: tuple[int, int, int], width: int) -> tf.keras.Model:
    """3x3 stem, three stages of n basic blocks at 1, 2, 4 x width, strides 1, 2, 2.

    Args:
      name: "resnet8", "resnet20", ...: 6n + 2 layers.
      input_shape: height, width and channels.
      width: channels of the first stage.

    Returns:
      Pixels float32 [B, H, W, C] -> feature map [B, H / 4, W / 4, 4 * width].
    """
    blocks = (int(name[len("resnet") :]) - 2) // 6
    inputs = tf.keras.Input(input_shape)
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
        shortcut = _projected(x, filters, stride, f"{name}_shortcut")
    x = layers.ReLU(name=f"{name}_relu1")(_conv_norm(x, filters, 3, stride, f"{name}_1"))
    x = _conv_norm(x, filters, 3, 1, f"{name}_2")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _projected(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """A 1x1 convolution; narrow maps are thinned out before it, which gives the same."""
    if stride > 1 and x.shape[-1] < _NARROW:
        x, stride = layers.AveragePooling2D(1, stride, name=f"{name}_thinned")(x), 1
    return _conv_norm(x, filters, 1, stride, name)


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
