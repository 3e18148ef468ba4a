"""Class prototypes: where each class stands in embedding space, from its training images.

A prototype is the mean of a class's L2-normalised embeddings, normalised again; the nearest one by
cosine names the class (NCM, Kang 2020, arXiv:1910.09217, section 4; Snell 2017, arXiv:1703.05175).
It needs no training, so a class of one image gets a prototype as good as its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_embeddings, unit_rows

VARIANTS = ("l2", "cl2n", "plain")
_COLUMNS = 8  # summed per pass over the images: contiguous reads for a copy of N x 8 numbers


def class_prototypes(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the unit-norm prototype of each class.

    O(N D) time; memory beside the result is 40 bytes an image, so a million classes are fine.

    Args:
      embeddings: float [N, D]; any length, each is normalised first.
      labels: int [N], class ids in 0..num_classes-1.
      num_classes: C.

    Returns:
      float32 [C, D].

    Raises:
      UserError: a class without an image (a made-up prototype would attract images), an embedding
        that is not finite, a label outside the classes.
    """
    vectors, labels = checked_embeddings(embeddings, labels)
    return unit_rows(class_means(unit_rows(vectors), labels, num_classes))


def class_means(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the plain mean embedding of each class, float32 [C, D], summed in float64.

    Args and errors are those of `class_prototypes`; embeddings are not normalised.
    """
    embeddings, labels = checked_embeddings(embeddings, labels)
    counts = class_counts(labels, num_classes)
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise UserError(
            f"the embedding of image {bad} holds NaN or infinity; the network has diverged: "
            "train with a lower learning rate"
        )
    means = np.empty((num_classes, embeddings.shape[1]), np.float32)
    for start in range(0, embeddings.shape[1], _COLUMNS):
        block = np.ascontiguousarray(embeddings[:, start : start + _COLUMNS].T)
        for offset, column in enumerate(block):
            total = np.bincount(labels, weights=column, minlength=num_classes)
            means[:, start + offset] = total / counts
    return means


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the images of each class, int64 [C]; every class must have one."""
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"labels run over {labels.min()}..{labels.max()}; expected class ids within "
            f"0..{num_classes - 1}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if empty.size > 5 else "")
        raise UserError(
            f"{empty.size} of {num_classes} classes have no image to make a prototype from "
            f"(class ids {shown}); give each class an image or leave it out"
        )
    return counts


def multi_prototypes(
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    per_class: int,
    min_images: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns several prototypes for classes with many images, one for all others.

    A class that looks several ways (front and back of a shoe) has a mean that looks like none of
    them; k-means within the class finds the ways.

    Args:
      embeddings: float [N, D].
      labels: int [N].
      num_classes: C.
      per_class: prototypes of a class with enough images.
      min_images: a class gets floor(images / min_images) prototypes, from 1 up to `per_class`.
      seed: of k-means.

    Returns:
      prototypes float32 [M, D], unit norm, and the class of each, int32 [M], rising.
    """
    if per_class < 1 or min_images < 1:
        raise UserError(
            f"per_class is {per_class} and min_images {min_images}; both must be at least 1"
        )
    single = class_prototypes(embeddings, labels, num_classes)
    counts = class_counts(np.asarray(labels), num_classes)
    wanted = np.clip(counts // min_images, 1, per_class)
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    vectors = np.asarray(embeddings, np.float32)
    parts, owners, done = [], [], 0
    for class_id in np.flatnonzero(wanted > 1):
        rows = order[starts[class_id] : starts[class_id] + counts[class_id]]
        centres = spherical_kmeans(
            unit_rows(vectors[rows]), int(wanted[class_id]), seed=(seed, int(class_id))
        )
        parts += [single[done:class_id], centres]
        owners += [np.arange(done, class_id), np.full(len(centres), class_id)]
        done = int(class_id) + 1
    parts.append(single[done:])
    owners.append(np.arange(done, num_classes))
    return np.concatenate(parts), np.concatenate(owners).astype(np.int32)


class Prototypes(NamedTuple):
    """Prototypes and what an embedding goes through before it meets them."""

    prototypes: np.ndarray  # float32 [M, D]
    prototype_classes: np.ndarray  # int32 [M], rising
    center: np.ndarray | None  # float32 [D], taken off before normalising again
    prototype_bias: np.ndarray | None  # float32 [M], added to the products


def fit_prototypes(
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    variant: str = "l2",
    per_class: int = 1,
    min_images: int = 50,
    seed: int = 0,
) -> Prototypes:
    """Returns the prototypes of one variant (un, l2n, cl2n in Kang 2020's KNNClassifier).

    Args:
      embeddings: float32 [N, D], unit norm.
      labels: int [N].
      num_classes: C.
      variant: "l2" cosine to means; "cl2n" the same after taking off the training mean; "plain"
        Euclidean distance to means that are not normalised, one a class.
      per_class: see `multi_prototypes`, as are `min_images` and `seed`.
    """
    if variant not in VARIANTS:
        raise UserError(
            f"prototype variant {variant!r} is not known; choose one of {', '.join(VARIANTS)}"
        )
    if variant == "plain":
        means = class_means(embeddings, labels, num_classes)
        # -|x - m|^2 / 2 = x.m - |m|^2 / 2 - 1/2 for unit x: the last term is the same everywhere.
        bias = -0.5 * np.einsum("cd,cd->c", means, means)
        return Prototypes(means, np.arange(num_classes, dtype=np.int32), None, bias)
    center = None
    if variant == "cl2n":
        center = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        embeddings = unit_rows(embeddings - center)
    found = multi_prototypes(
        embeddings, labels, num_classes, per_class=per_class, min_images=min_images, seed=seed
    )
    return Prototypes(*found, center, None)


def spherical_kmeans(
    points: np.ndarray, k: int, *, seed: int | Sequence[int], iterations: int = 25
) -> np.ndarray:
    """Returns cluster centres by cosine (Dhillon and Modha 2001), started by k-means++.

    Args:
      points: float32 [N, D], unit norm.
      k: clusters wanted.
      seed: of the start.
      iterations: at most this many; stops when no point moves.

    Returns:
      float32 [k', D], unit norm; k' < k where points have fewer than k distinct places.
    """
    centres = _plus_plus(points, k, np.random.default_rng(seed))
    member = np.full(len(points), -1)
    for _ in range(iterations):
        nearest = (points @ centres.T).argmax(axis=1)
        if np.array_equal(nearest, member):
            break
        member = nearest
        one_hot = (member[None] == np.arange(len(centres))[:, None]).astype(np.float32)
        filled = one_hot.sum(axis=1) > 0
        centres = unit_rows(one_hot[filled] @ points)
        member = (np.cumsum(filled) - 1)[member]
    return centres


def _plus_plus(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Picks starts far from each other (Arthur and Vassilvitskii 2007)."""
    chosen = [int(rng.integers(len(points)))]
    gap = np.full(len(points), np.inf)
    while len(chosen) < k:
        gap = np.minimum(gap, 1.0 - points @ points[chosen[-1]].astype(np.float64))
        gap[gap < 1e-6] = 0.0  # rounding would let a copy of a chosen point in
        if gap.sum() <= 0:
            break
        chosen.append(int(rng.choice(len(points), p=gap / gap.sum())))
    return points[chosen]
