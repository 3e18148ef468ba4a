"""The data set that the settings name, and the settings that depend on it.

They are filled in before a run begins, so that config.flags repeats it.

One rule a setting, each stated here and printed in the plan of a run. Pretrained means: the
backbone starts from weights that others learned (`--weights` other than none, or a network that
brings its own).
"""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any, Optional

import numpy as np
from PIL import Image

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.datasets import DatasetIndex, load_index
from longtail_tf.errors import UserError
from longtail_tf.recognition.linear_refit import MAX_CELLS
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.saved_settings import load_settings, resumed_backbone
from longtail_tf.settings.backbones import CIFAR_BACKBONES, brings_weights, facts
from longtail_tf.settings.choices import ALL_CLASS_RULES, ANY_HEAD_RULES
from longtail_tf.settings.fields import TrainingFields

SMALL_IMAGE_PX = 64  # up to here a CIFAR-stem net from random weights
PHOTO_PX = 224  # what most ImageNet weights were trained at
PHOTO_BACKBONE = "efficientnet_lite0"  # its weights come with the installation
USUAL_WIDTH = 16  # first-stage channels of the CIFAR-stem nets
LARGEST_FULL_HEAD = 500  # classes that --head_auto takes all of
USUAL_P = 16
HEAD_RULES = (*ANY_HEAD_RULES, *ALL_CLASS_RULES)  # rules of a head classifier
LARGEST_AUTO_K = 4
AUTO_WHOLE_BATCH = 32  # slots of a whole batch whose K follows the count curve
RANDOM_STEPS = 2000
USUAL_WARMUP = 100

# What a training from random weights and one from pretrained weights start with where the user
# gives nothing else (experiments/LOG.md; 0.1 wrecks a pretrained network, a tenth does not).
FROM_RANDOM: dict[str, Any] = {
    "learning_rate": 0.1,
    "backbone_rate": 1.0,
    "clip_norm": 0.0,
    "stay_near": 0.0,
    "embedding_dim": 128,
    "cached_views": 0,
    "backbone_norms": "batch",
    "embedding_start": "random",
}
FROM_PRETRAINED: dict[str, Any] = {
    "learning_rate": 0.05,
    "backbone_rate": 1.0,
    "clip_norm": 1.0,
    "stay_near": 0.0,
    "embedding_dim": 256,
    "cached_views": 4,
    "backbone_norms": "kept",
    "embedding_start": "whitened",
}
ALL_OF_A_PRETRAINED_RATE = 0.1  # backbone_rate where nothing stands still
PRETRAINED_PASSES = (6.0, 2.0)  # at most, at least
PRETRAINED_STEPS = 2000  # between these
_SIDES_READ = 32  # files whose size is looked at


def index_of(config: Config, spec: str = "") -> DatasetIndex:
    """The data set of the settings, or `spec` split and filtered as they say."""
    return load_index(
        spec or config.data,
        val_per_class=config.val_per_class,
        split_seed=config.split_seed,
        exclude=config.exclude,
    )


def resolve_for(config: Config, index: DatasetIndex) -> ResolvedConfig:
    """`resolve` with the facts of a data set.

    Raises:
      UserError: also where the wanted rule will not be fitted on so large a set.
    """
    if config.resume:
        backbone = resumed_backbone(config.run_dir, config.backbone)
        config = dataclasses.replace(config, backbone=backbone)
    images = len(index.train)
    too_many = images * index.num_classes > MAX_CELLS
    if config.inference_rule in ("linear", "lws", "crt") and too_many:
        raise UserError(
            f"--inference_rule={config.inference_rule} is not fitted on {images:,} images x "
            f"{index.num_classes:,} classes, as each of its many passes would take minutes: choose "
            "lda, which makes one."
        )
    return resolve(
        config,
        num_images=images,
        num_classes=index.num_classes,
        side=usual_side(index),
        is_files=index.image_shape is None,
        flip_is_valid=index.flip_is_valid,
        quartile_count=index.quartile_count,
    )


def resolve(
    config: Config,
    *,
    num_images: int,
    num_classes: int,
    side: int,
    is_files: bool,
    flip_is_valid: bool,
    quartile_count: int = LARGEST_AUTO_K,
) -> ResolvedConfig:
    """Every setting of a run as a value.

    Args:
      config: the settings as given.
      num_images: N, training images.
      num_classes: C.
      side: of the images as they come, px: of arrays the longer one, of files a typical shorter
        one.
      is_files: whether they are files and not arrays.
      flip_is_valid: whether a mirrored image still is of its class.
      quartile_count: training images that three quarters of the classes have, from which K comes
        where it is 0: more slots than a class has images hold repeats.

    Raises:
      UserError: P is more than the number of classes; images of 0 px.
    """
    backbone, weights = usual_backbone(config, side)
    pretrained = weights != "none" or brings_weights(backbone)
    head: dict[str, Any] = {}
    if config.head_auto:
        every = num_classes <= LARGEST_FULL_HEAD
        head = {"head_auto": False, "head_all": every, "head_ratio": None if every else 0.5}
    classes_per_batch, images_per_class = usual_whole_batch(
        config.classes_per_batch,
        config.images_per_class,
        num_classes=num_classes,
        quartile_count=quartile_count,
    )
    if config.has_whole_stream and classes_per_batch > num_classes:
        raise UserError(
            f"--classes_per_batch={classes_per_batch}, but the training set has {num_classes} "
            f"classes: set it to at most {num_classes}."
        )
    given = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(TrainingFields)
    }
    usual = FROM_PRETRAINED if pretrained else FROM_RANDOM
    follows = {
        **head,
        **{name: value for name, value in usual.items() if given[name] is None},
        "image_size": usual_image_size(config.image_size, side, is_files=is_files),
        "backbone": backbone,
        "weights": weights,
        "pixel_range": usual_pixel_range(config.pixel_range, backbone, weights),
        "train_from": usual_train_from(config.train_from, pretrained=pretrained),
        "width": config.width or (USUAL_WIDTH if backbone in CIFAR_BACKBONES else None),
        "classes_per_batch": classes_per_batch,
        "images_per_class": images_per_class,
        "margin": (0.2 if config.unit_features else 0.3)
        if config.margin is None
        else config.margin,
    }
    for stream in ("head_augment", "whole_augment"):
        follows[stream] = usual_augment(
            given[stream], flip_is_valid, windows=pretrained or is_files and side > SMALL_IMAGE_PX
        )
    if follows["train_from"] == "all":
        follows["cached_views"] = 0
        if pretrained and config.backbone_rate is None:
            follows["backbone_rate"] = ALL_OF_A_PRETRAINED_RATE
    steps = usual_steps({**given, **follows}, config, num_images=num_images, pretrained=pretrained)
    if not follows.get("embedding_dim", config.embedding_dim):
        follows["embedding_start"] = "random"  # there is no projection
    follows.update(steps=steps, passes=None, time_budget="")
    if config.warmup_steps is None:
        follows["warmup_steps"] = min(USUAL_WARMUP, steps // 10)
    resolved = ResolvedConfig(**{**given, **follows})
    return without_training(resolved) if resolved.train_from == "none" else resolved


def without_training(config: ResolvedConfig) -> ResolvedConfig:
    """The settings of a run that reads the features of a pretrained backbone as they are."""
    return dataclasses.replace(
        config,
        train_from="none",
        steps=0,
        warmup_steps=0,
        embedding_dim=0,
        embedding_start="random",
        cached_views=0,
        inference_rule="ncm" if config.inference_rule in HEAD_RULES else config.inference_rule,
    )


def usual_backbone(config: Config, side: int) -> tuple[str, str]:
    """The backbone and its weights: as given, or by the size of the images.

    Up to 64 px: resnet20 from random weights. Above: EfficientNet-Lite0 from ImageNet weights, or
    resnet18v2 where random weights are asked for. A backbone that is named starts from random
    weights unless weights are named too.
    """
    backbone, weights = config.backbone, config.weights or "none"
    small = (config.image_size or side) <= SMALL_IMAGE_PX
    if backbone == "auto":
        if weights == "none" or (weights == "auto" and small):
            backbone = "resnet20" if small else "resnet18v2"
        else:
            backbone = PHOTO_BACKBONE
            weights = "imagenet" if weights == "auto" else weights
    return backbone, "none" if weights == "auto" else weights


def usual_pixel_range(given: str, backbone: str, weights: str) -> str:
    """What the backbone is fed: as given; as the run was whose weights it gets; or by the table."""
    if given != "auto":
        return given
    run = RunFolder(weights)
    return load_settings(run).pixel_range if run.config.is_file() else facts(backbone).pixel_range


def usual_train_from(given: str, *, pretrained: bool) -> str:
    """Where training begins: as given; auto means all of a network with random weights."""
    return "all" if given == "auto" and not pretrained else given


def usual_image_size(given: Optional[int], side: int, *, is_files: bool) -> int:
    """Side of the images in pixels: as given, or that of arrays, or up to 224 for files.

    Files are not enlarged: below 224 px the side is the largest multiple of 32 they hold.
    """
    if given or not is_files:
        return given or side
    if side <= SMALL_IMAGE_PX:
        return max(side, 8)
    return min(PHOTO_PX, max(SMALL_IMAGE_PX, side // 32 * 32))


def usual_augment(given: str, flip_is_valid: bool, *, windows: bool) -> str:
    """The augmentation as given; or crops, mirrored where a mirrored image keeps its class.

    Photos are enlarged windows; small pictures are shifted, as their edges are mostly plain.
    """
    if given != "auto":
        return given
    return ("resized_crop" if windows else "crop") + ("_flip" if flip_is_valid else "")


def usual_whole_batch(
    classes_per_batch: Optional[int],
    images_per_class: int,
    *,
    num_classes: int,
    quartile_count: int,
) -> tuple[int, int]:
    """P and K of a whole batch: as given, or from the count curve where P is None or K is 0."""
    usual_classes = USUAL_P
    if not images_per_class:
        images_per_class = min(max(quartile_count, 2), LARGEST_AUTO_K)
        usual_classes = AUTO_WHOLE_BATCH // images_per_class
    return classes_per_batch or min(usual_classes, num_classes), images_per_class


def usual_steps(
    values: dict[str, Any], config: Config, *, num_images: int, pretrained: bool
) -> int:
    """Train steps: as given, or from passes as given.

    Else 2,000 from random weights; from pretrained ones 6 passes, or 2,000 steps if those are less,
    but at least 2 passes.
    """
    if config.steps is not None:
        return config.steps
    whole = values["classes_per_batch"] * values["images_per_class"] * config.has_whole_stream
    a_pass = num_images / (values["head_batch_size"] * config.has_head_stream + whole)
    if config.passes is not None:
        return max(1, math.ceil(config.passes * a_pass))
    if not pretrained:
        return RANDOM_STEPS
    most, least = PRETRAINED_PASSES
    return math.ceil(max(min(most * a_pass, PRETRAINED_STEPS), least * a_pass))


def usual_side(index: DatasetIndex) -> int:
    """Side of the images as they come, px: of arrays the longer one; of files the median shorter
    one of a few spread over the training split, or 224 where none can be read."""
    if index.image_shape is not None:
        return max(index.image_shape[:2])
    split = index.train
    rows = np.unique(np.linspace(0, len(split) - 1, _SIDES_READ).astype(np.int64))
    sides = []
    for row in rows:
        try:
            with Image.open(io.BytesIO(split.read(np.array([row]))[0])) as image:
                sides.append(min(image.size))
        except Exception:  # whatever Pillow raises on odd bytes: training replaces such files
            continue
    return int(np.median(sides)) if sides else PHOTO_PX
