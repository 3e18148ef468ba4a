"""`npz:PATH`: images and labels as arrays in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.array_store import (
    ArrayStore,
    checked_images,
    checked_labels,
)
from longtail_tf.datasets.index import TRAIN, Source, array_digest, split_code
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError
from longtail_tf.npz_files import read_arrays

OPTIONS: Mapping[str, Option] = {}


def read(path: str, options: Mapping[str, Any]) -> Source:
    """Reads `images`, `labels` and, where there, `class_names`, `split` and `split_names`.

    Colour images count as safe to flip, grey ones do not: those are often characters. The option
    flip=true or flip=false says otherwise.
    """
    arrays = _load(path)
    for name in ("images", "labels"):
        if name not in arrays:
            raise UserError(
                f"{path} has no array {name!r}, only {', '.join(sorted(arrays)) or 'none at all'}; "
                "save images uint8 [N, H, W, C] and labels int [N] with np.savez"
            )
    images = checked_images(arrays["images"], where=path)
    labels = checked_labels(arrays["labels"], num_images=len(images), where=path)
    class_names, labels = _name_classes(path, labels, arrays.get("class_names"))
    channels = int(images.shape[3])
    return Source(
        name=os.path.splitext(os.path.basename(path))[0],
        class_names=class_names,
        labels=labels,
        split=_split_codes(path, len(images), arrays.get("split"), arrays.get("split_names")),
        store=ArrayStore(images, os.path.basename(path)),
        content=array_digest(images),
        image_shape=(int(images.shape[1]), int(images.shape[2]), channels),
        channels=channels,
        flip_is_valid=channels == 3,
    )


def _load(path: str) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, ("images", "labels", "class_names", "split", "split_names"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give the path of an .npz file") from None


def _name_classes(
    path: str, labels: np.ndarray, names: np.ndarray | None
) -> tuple[StringTable, np.ndarray]:
    if names is None:
        present, ids = np.unique(labels, return_inverse=True)
        return StringTable.from_strings(str(label) for label in present), ids.astype(np.int32)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(
            f"{path} has class_names of type {names.dtype} and shape {list(names.shape)}; "
            "give an array of strings [C]"
        )
    if labels.max() >= len(names):
        row = int(np.argmax(labels >= len(names)))
        raise UserError(
            f"{path} has the label {labels[row]} in row {row} but only {len(names)} class_names; "
            "give a name for every class id"
        )
    unique, counts = np.unique(names, return_counts=True)
    if counts.max() > 1:
        raise UserError(
            f"{path} has class_names that come twice: {listing(unique[counts > 1].tolist())}; "
            "give every class its own name"
        )
    try:
        return StringTable.from_strings(names.tolist()), labels.astype(np.int32)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} has a class name that is no text ({error.object!a}); give every class a name "
            "in Unicode"
        ) from error


def _split_codes(
    path: str, num_images: int, split: np.ndarray | None, names: np.ndarray | None
) -> np.ndarray:
    if split is None:
        return np.full(num_images, TRAIN, np.uint8)
    if split.shape != (num_images,) or split.dtype.kind not in "iu":
        raise UserError(
            f"{path} has a split of type {split.dtype} and shape {list(split.shape)}; "
            f"give whole numbers of shape [{num_images}], positions in split_names"
        )
    if names is None:
        raise UserError(
            f"{path} has a split but no split_names; add for example "
            "split_names=['train', 'val', 'test']"
        )
    if names.ndim != 1:
        raise UserError(
            f"{path} has split_names of shape {list(names.shape)}; give a list of names, for "
            "example ['train', 'val', 'test']"
        )
    codes = [split_code(str(name)) for name in names.tolist()]
    if None in codes:
        raise UserError(
            f"{path} has the split_names {listing(names.tolist())}; use only train, val and test"
        )
    if split.min() < 0 or split.max() >= len(codes):
        raise UserError(
            f"{path} has split values from {split.min()} to {split.max()} but "
            f"{len(codes)} split_names; give positions in split_names"
        )
    return np.asarray(codes, np.uint8)[split]
