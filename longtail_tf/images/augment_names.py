"""Names of the augmentations, for settings; importable without TensorFlow.

A name lists its parts. `flip` changes the class of digits and characters; everything else keeps
it. The mixing ones change labels too, so they are for the head stream alone: a triplet of two
half classes means nothing.
"""

from __future__ import annotations

AUGMENTATIONS = (
    "none",
    "crop",
    "crop_flip",
    "crop_cutout",
    "crop_flip_cutout",
    "crop_randaugment",
    "crop_flip_randaugment",
    "crop_randaugment_cutout",
    "crop_flip_randaugment_cutout",
)
MIXING_AUGMENTATIONS = (
    "crop_mixup",
    "crop_flip_mixup",
    "crop_cutmix",
    "crop_flip_cutmix",
)
