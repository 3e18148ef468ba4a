"""Where an embedding of pretrained features starts: in the space in which they compare best.

Nearest means in the raw features of a pretrained network take every direction for equally telling.
Whitened by the covariance within classes (shrunken, as `discriminant` does), the directions in
which images of one class differ count less; the leading principal components of the result keep
what tells classes apart. A training that starts there begins where linear discriminant analysis of
the frozen features would end, and cannot first unlearn the tail (experiments/LOG.md).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import unit_rows
from longtail_tf.recognition.discriminant import covariance_within_classes
from longtail_tf.recognition.prototypes import class_counts, class_means

SHRINKAGE = 0.5
_ALIKE = 1e-12  # scatter, as a share of the features' square, that float32 rounding leaves
_NO_FEATURES = (
    "the features of the backbone are {}: its weights are damaged, or of a network that wants "
    "other pixels."
)


class Whitening(NamedTuple):
    """The map features [N, F] @ kernel + bias -> [N, D], of mean variance 1 over the classes."""

    kernel: np.ndarray  # float32 [F, D]
    bias: np.ndarray  # float32 [D]


def fit_whitening(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    dimension: int,
    shrinkage: float = SHRINKAGE,
) -> Whitening:
    """Fits the map; every class counts alike, whatever its images.

    Args:
      features: float [N, F], as the network pools them.
      labels: int [N]; every class has an image.
      num_classes: C.
      dimension: D, at most F.
      shrinkage: share of the mean variance blended into every direction of the covariance within
        classes, above 0, to 1; 1 leaves plain principal components.

    Raises:
      UserError: D is more than F; features that are all zero, all alike or not finite.
    """
    width = features.shape[1]
    if dimension > width:
        raise UserError(
            f"--embedding_dim={dimension}, but the backbone has only {width} features: set it to "
            f"at most {width}, or to 0 to keep all of them."
        )
    counts = class_counts(labels, num_classes)
    length = float(np.linalg.norm(features, axis=1).mean())
    if not np.isfinite(length) or length <= 0:
        raise UserError(_NO_FEATURES.format("all zero or not finite"))
    scaled = features.astype(np.float64) / length
    unit = unit_rows(features.astype(np.float32))
    within = covariance_within_classes(unit, labels, class_means(unit, labels, num_classes), counts)
    each = 1.0 / counts[labels] / num_classes  # weight of an image: classes count alike
    mean = each @ scaled
    centred = scaled - mean
    if float(each @ np.square(centred).sum(axis=1)) < _ALIKE:
        raise UserError(_NO_FEATURES.format("the same for every image"))
    root = _inverse_root(within, shrinkage)
    white = centred @ root
    _, axes = np.linalg.eigh((white * each[:, np.newaxis]).T @ white)
    kernel = root @ axes[:, ::-1][:, :dimension]
    variance = float((each @ np.square(centred @ kernel)).mean())
    kernel /= np.sqrt(variance) if variance > 0 else 1.0
    return Whitening((kernel / length).astype(np.float32), (-(mean @ kernel)).astype(np.float32))


def _inverse_root(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """The symmetric inverse square root of the shrunken covariance, of trace 1."""
    width = len(covariance)
    trace = float(np.trace(covariance))
    if trace <= 0:  # no class has two different images: every direction tells alike
        return np.eye(width)
    variances, axes = np.linalg.eigh(covariance / trace)
    shrunken = (1 - shrinkage) * np.maximum(variances, 0) + shrinkage / width
    return (axes / np.sqrt(shrunken)) @ axes.T
