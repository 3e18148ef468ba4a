"""The data set that the settings name, and the settings that depend on it."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.datasets import DatasetIndex, load_index
from longtail_tf.errors import UserError
from longtail_tf.recognition.linear_refit import MAX_CELLS
from longtail_tf.settings.choices import CIFAR_BACKBONES
from longtail_tf.settings.fields import TrainingFields

SMALL_IMAGE_PX = 64
FILE_IMAGE_PX = 128
USUAL_WIDTH = 16  # first-stage channels of the CIFAR-stem nets
LARGEST_FULL_HEAD = 500  # classes that --head_auto takes all of
USUAL_P = 16
LARGEST_AUTO_K = 4
AUTO_WHOLE_BATCH = 32  # slots of a whole batch whose K follows the count curve


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
        num_classes=index.num_classes,
        image_shape=index.image_shape,
        flip_is_valid=index.flip_is_valid,
        quartile_count=index.quartile_count,
    )


def resolve(
    config: Config,
    *,
    num_classes: int,
    image_shape: Optional[tuple],
    flip_is_valid: bool,
    quartile_count: int = LARGEST_AUTO_K,
) -> ResolvedConfig:
    """Fills the settings that depend on the data set, so that config.flags repeats the run.

    Args:
      config: the settings as given.
      num_classes: C.
      image_shape: of array data; None for files.
      flip_is_valid: whether a mirrored image still is of its class.
      quartile_count: training images that three quarters of the classes have, from which K comes
        where it is 0: more slots than a class has images hold repeats.

    Raises:
      UserError: P is more than the number of classes.
    """
    size = usual_image_size(config.image_size, image_shape)
    backbone = config.backbone
    if backbone == "auto":
        backbone = "resnet20" if size <= SMALL_IMAGE_PX else "resnet18v2"
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
    follows = {
        **head,
        "image_size": size,
        "backbone": backbone,
        "width": config.width or (USUAL_WIDTH if backbone in CIFAR_BACKBONES else None),
        "classes_per_batch": classes_per_batch,
        "images_per_class": images_per_class,
        "head_augment": usual_augment(config.head_augment, flip_is_valid),
        "whole_augment": usual_augment(config.whole_augment, flip_is_valid),
        "margin": (0.2 if config.unit_features else 0.3)
        if config.margin is None
        else config.margin,
    }
    return ResolvedConfig(**{**given, **follows})


def usual_image_size(given: Optional[int], image_shape: Optional[tuple]) -> int:
    """Side of the images in pixels: as given, or that of array data, or 128 for files."""
    return given or (max(image_shape[:2]) if image_shape else FILE_IMAGE_PX)


def usual_augment(given: str, flip_is_valid: bool) -> str:
    """The augmentation as given, or crops, mirrored where a mirrored image keeps its class."""
    if given != "auto":
        return given
    return "crop_flip" if flip_is_valid else "crop"


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
