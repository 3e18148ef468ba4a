"""Names of the augmentations, for settings; importable without TensorFlow.

A name lists its parts. `crop` shifts the picture, `resized_crop` enlarges a window of it. `flip`
changes the class of digits and characters; everything else keeps it. The mixing ones change labels
too, so they are for the head stream alone: a triplet of two half classes means nothing.
"""

from __future__ import annotations

_CROPS = ("crop", "crop_flip", "resized_crop", "resized_crop_flip")
_ADDED = ("", "_cutout", "_randaugment", "_randaugment_cutout")

AUGMENTATIONS = ("none", *(crop + added for added in _ADDED for crop in _CROPS))
MIXING_AUGMENTATIONS = (
    "crop_mixup",
    "crop_flip_mixup",
    "crop_cutmix",
    "crop_flip_cutmix",
)
