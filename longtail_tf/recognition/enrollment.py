"""Changing the classes of a fitted recognizer without training: add, replace, remove.

A class is its prototype, so a new one needs only a few embeddings. Class ids stay dense: an added
class gets the next id, a removed one moves the ids above it down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from longtail_tf.datasets import DatasetIndex, Split
from longtail_tf.recognition.discriminant import class_columns
from longtail_tf.recognition.fit import Recognizer
from longtail_tf.recognition.prototypes import class_prototypes

RECORD_FILE = "enrollment.json"
CLEAR_RATIO = 2.0
# Arrays of one column a class that would need a new fit.
_FITTED_TOGETHER = (
    *("linear_kernel", "linear_bias", "adjusted_offsets", "tau_norm_scales", "lws_scales"),
    *("crt_kernel", "crt_bias"),
)


class Resemblance(NamedTuple):
    """How much the images of a class look like another class."""

    class_id: int  # the nearest other class
    nearer: int  # images that would be taken for it
    images: int


def add_class(recognizer: Recognizer, embeddings: np.ndarray) -> Recognizer:
    """Returns the recognizer with one more class, id C, from embeddings float32 [n, D].

    The linear classifier and the rules of a head of every class are dropped: they would need a new
    fit. `lda` stays, as it takes a class by its mean.
    """
    return _with_class(recognizer, recognizer.num_classes, embeddings)


def replace_class(recognizer: Recognizer, class_id: int, embeddings: np.ndarray) -> Recognizer:
    """Returns the recognizer with class `class_id` standing where float32 [n, D] say it does.

    The head classifier was trained on the images before: of a head class it knows nothing any
    more, and no rule asks it.
    """
    replaced = _with_class(recognizer, class_id, embeddings)
    if class_id >= recognizer.num_head:
        return replaced
    return dataclasses.replace(replaced, head_outdated=True, gate_weight=0.0)


def remove_class(recognizer: Recognizer, class_id: int) -> Recognizer:
    """Returns the recognizer without class `class_id`; the ids above it move down by one."""
    columns: dict[str, Any] = {
        name: np.delete(getattr(recognizer, name), class_id, axis=-1)
        for name in (*_FITTED_TOGETHER, "lda_kernel", "lda_bias")
        if getattr(recognizer, name) is not None
    }
    gallery: dict[str, Any] = {}
    if recognizer.gallery is not None and recognizer.gallery_labels is not None:
        rows = recognizer.gallery_labels != class_id
        labels = recognizer.gallery_labels[rows]
        gallery = {
            "gallery": recognizer.gallery[rows],
            "gallery_labels": np.where(labels > class_id, labels - 1, labels).astype(labels.dtype),
        }
    num_head = recognizer.num_head - int(class_id < recognizer.num_head)
    return dataclasses.replace(
        recognizer,
        num_classes=recognizer.num_classes - 1,
        num_head=num_head,
        gate_weight=recognizer.gate_weight if num_head else 0.0,
        class_counts=np.delete(recognizer.class_counts, class_id),
        prototypes=np.delete(recognizer.prototypes, class_id, axis=0),
        **columns,
        **gallery,
    )


def resemblance(recognizer: Recognizer, embeddings: np.ndarray, *, skip: int = -1) -> Resemblance:
    """Which class the images of a new class resemble most, and how many of them.

    An image counts where that class would be named for it (it reaches the rejection threshold, if
    there is one) and where the new class does not stand clear of it: its squared distance to the
    class is below CLEAR_RATIO times that to the prototype of the other new images. For images of
    the very same class that ratio is about 1, and 0.5 when there are only two.

    Args:
      recognizer: of the classes there are.
      embeddings: float32 [n, D], images of the class to be added.
      skip: a class that is not compared with (one that is being replaced); -1: none.
    """
    scores = recognizer.scores("ncm", embeddings) * recognizer.temperatures.get("ncm", 1.0)
    if skip >= 0:
        scores[:, skip] = -np.inf
    best = scores.argmax(axis=1)
    strength = scores[np.arange(len(best)), best]
    # 1 - cosine is the squared distance of unit vectors, up to a common factor.
    close = 1 - strength < CLEAR_RATIO * _own_distance(embeddings)
    if recognizer.threshold is not None:
        close &= strength >= recognizer.threshold
    elif len(embeddings) == 1:  # nothing to judge a single image by
        close[:] = False
    counted = np.bincount(best, weights=close, minlength=recognizer.num_classes)
    nearest = int(counted.argmax()) if counted.any() else int(np.bincount(best).argmax())
    return Resemblance(nearest, int(counted[nearest]), len(embeddings))


def _own_distance(embeddings: np.ndarray) -> np.ndarray:
    """1 - cosine of each image and the prototype of the others; infinite for one image."""
    if len(embeddings) == 1:
        return np.array([np.inf])
    own = []
    for row in range(len(embeddings)):
        own.append(float(embeddings[row] @ _prototype(np.delete(embeddings, row, axis=0))))
    return 1 - np.array(own)


def moved_ids(num_classes: int, removed: int = -1) -> np.ndarray:
    """New id of each old class, int64 [C]; -1 for the removed one."""
    ids = np.arange(num_classes)
    if removed < 0:
        return ids
    return np.where(ids == removed, -1, ids - (ids > removed))


def enrolled_index(
    index: DatasetIndex, *, class_map: Sequence[int], class_names: Any, class_counts: np.ndarray
) -> DatasetIndex:
    """The data set of the first training, in the classes of an enrolled run.

    Images of removed classes are left out; classes that were added have none.

    Args:
      index: as the data set says.
      class_map: new id of each of its classes, -1 where removed.
      class_names: table of the enrolled run.
      class_counts: int64 [C'] of the enrolled run.
    """
    ids = np.asarray(class_map, np.int32)
    return dataclasses.replace(
        index,
        class_names=class_names,
        class_counts=class_counts,
        train=_mapped(index.train, ids),
        val=None if index.val is None else _mapped(index.val, ids),
        test=None if index.test is None else _mapped(index.test, ids),
    )


def _mapped(split: Split, ids: np.ndarray) -> Split:
    labels = ids[split.labels]
    rows = np.flatnonzero(labels >= 0)
    store_rows = rows if split.store_rows is None else split.store_rows[rows]
    return dataclasses.replace(split, labels=labels[rows], store_rows=store_rows)


def _with_class(recognizer: Recognizer, class_id: int, embeddings: np.ndarray) -> Recognizer:
    """`class_id` (new or old) from these embeddings alone."""
    counts = np.append(recognizer.class_counts, 0)[: max(class_id + 1, recognizer.num_classes)]
    counts[class_id] = len(embeddings)
    kept = np.arange(recognizer.num_classes) != class_id
    others: dict[str, Any] = dict.fromkeys(_FITTED_TOGETHER)
    others.update(_lda_with_class(recognizer, class_id, embeddings))
    if recognizer.gallery is not None and recognizer.gallery_labels is not None:
        rows = recognizer.gallery_labels != class_id
        labels = np.full(len(embeddings), class_id, recognizer.gallery_labels.dtype)
        others["gallery"] = np.concatenate([recognizer.gallery[rows], embeddings])
        others["gallery_labels"] = np.concatenate([recognizer.gallery_labels[rows], labels])
    return dataclasses.replace(
        recognizer,
        num_classes=len(counts),
        class_counts=counts,
        prototypes=np.insert(recognizer.prototypes[kept], class_id, _prototype(embeddings), axis=0),
        **others,
    )


def _lda_with_class(
    recognizer: Recognizer, class_id: int, embeddings: np.ndarray
) -> dict[str, np.ndarray]:
    if recognizer.lda_kernel is None or recognizer.lda_bias is None:
        return {}
    kernel, bias = class_columns(
        embeddings.mean(axis=0, keepdims=True, dtype=np.float64),
        np.array([len(embeddings)]),
        precision=recognizer.lda_precision,
        center=recognizer.lda_center,
        scatter=recognizer.lda_scatter,
    )
    kept = np.arange(recognizer.num_classes) != class_id
    return {
        "lda_kernel": np.insert(recognizer.lda_kernel[:, kept], class_id, kernel[:, 0], axis=1),
        "lda_bias": np.insert(recognizer.lda_bias[kept], class_id, bias[0]),
    }


def _prototype(embeddings: np.ndarray) -> np.ndarray:
    """Prototype float32 [D] of unit embeddings [n, D]."""
    return class_prototypes(embeddings, np.zeros(len(embeddings), np.int64), 1)[0]
