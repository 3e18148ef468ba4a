"""Narrow nets: no operation that oneDNN computes wrongly, and the same network all the same."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.models import cifar_resnet
from tests import rounding


def build(width, size=9):
    return cifar_resnet.build("resnet8", input_shape=(size, size, 3), width=width)


@pytest.mark.parametrize("width", [1, 4, 8, 15, 16, 20])
def test_no_strided_kernel_of_one_pixel_reads_fewer_than_16_channels(width):
    """oneDNN, issue 6035: its gradient writes past its memory."""
    net = build(width)
    kernels = [layer for layer in net.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    strided = [layer for layer in kernels if layer.strides != (1, 1)]
    assert len(strided) == (2 if width < 8 else 3 if width < 16 else 4)  # of 3x3 and 1x1
    for layer in strided:
        assert layer.kernel_size == (3, 3) or layer.kernel.shape[-2] >= 16


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("width", [4, 16])
def test_a_shortcut_takes_every_second_pixel_through_its_kernel(width, size, rng):
    """And its gradient is that of the definition, in float64."""
    net = build(width, size)
    kernel = net.get_layer("stage2_block1_shortcut_conv").kernel
    below = tf.keras.Model(net.input, net.get_layer("stage1_block1_relu2").output)
    images = rng.uniform(0, 1, (5, size, size, 3)).astype(np.float32)
    x = below(images).numpy().astype(np.float64)[:, ::2, ::2]
    expected = x @ kernel.numpy()[0, 0].astype(np.float64)
    weights = rng.normal(size=expected.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        found = tf.keras.Model(net.input, net.get_layer("stage2_block1_shortcut_conv").output)(
            images
        )
        loss = tf.reduce_sum(found * weights)
    sizes = np.abs(x) @ np.abs(kernel.numpy()[0, 0])
    np.testing.assert_allclose(found, expected, atol=rounding.NETWORK * max(1, sizes.max()))
    gradient = tape.gradient(loss, kernel)[0, 0]
    by_hand = np.einsum("nhwi,nhwo->io", x, weights)
    terms = np.einsum("nhwi,nhwo->io", np.abs(x), np.abs(weights)).max()
    np.testing.assert_allclose(gradient, by_hand, atol=rounding.NETWORK * terms)
