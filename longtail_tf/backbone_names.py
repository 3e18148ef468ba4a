"""Names of the backbones, importable without TensorFlow."""

from __future__ import annotations

# Depth = 6n + 2 (He 2016, arXiv:1512.03385, section 4.2): n blocks in each of three stages.
CIFAR_BACKBONES = ("resnet8", "resnet20", "resnet32", "resnet56")
IMAGE_BACKBONES = (
    "resnet18v2",
    "resnet34v2",
    "resnet50v2",
    "resnet101v2",
    "mobilenetv3_small",
    "mobilenetv3_large",
    "efficientnetv2_b0",
    "efficientnetv2_s",
)
BACKBONES = CIFAR_BACKBONES + IMAGE_BACKBONES
