"""Linear discriminant analysis on frozen embeddings: class means under one shared covariance.

Nearest-prototype rules take every direction of the embedding for equally telling. Images of one
class scatter more in some directions than in others; measured by the covariance within classes,
the distance to a class mean counts the quiet directions more (Fisher 1936; Hastie, The Elements of
Statistical Learning, section 4.3). All classes share that covariance, so a class of one image
profits from what the others show. With equal priors the rule is linear, in closed form: no passes,
no seed, no validation images, and a new class needs its mean alone.

Three choices make it fit for long tails. Every class counts alike in the covariance, whatever its
images, as the head would otherwise make it alone. A fifth of the mean variance is blended into
every direction (shrinkage, Friedman 1989, Regularized Discriminant Analysis, equation 18), as the
training images scatter less than those to come. And a mean of n images lies off the true one by
1/n of the scatter, which makes a class of few images look farther away than it is: half of that
is corrected (all of it would leave the distance unbiased, McLachlan 1992, Discriminant Analysis
and Statistical Pattern Recognition, section 3.5; half names more images rightly). The fifth and
the half were chosen on validation images of four sets (experiments/LOG.md).

Scores are in units of the scatter, so that their natural temperature is 1: a network that
memorises its training images lets them scatter ever less, and plain log-likelihoods would grow
without bound. On twelve trainings the temperature fitted on validation was 0.8 to 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from longtail_tf.recognition.prototypes import class_counts, class_means

SHRINKAGE = 0.2
SHRINKAGES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)  # to choose from, for long vectors
LONG = 512  # numbers of a vector that no training made as short as it needs
FOLDS = 5
CORRECTED = 0.5  # share of what the means of few images lie off
_COLLAPSED = 1e-10  # share of the embeddings' square that is rounding, not scatter
_CELLS = 1 << 23  # numbers of images or classes in float64 at a time: 64 MB


class Discriminant(NamedTuple):
    """The fitted classifier: scores are embeddings @ kernel + bias.

    A score is half the squared distance to the class mean, negative, up to a constant that all
    classes share; `center` keeps the numbers small.
    """

    kernel: np.ndarray  # float32 [D, C]
    bias: np.ndarray  # float32 [C]
    precision: np.ndarray  # float32 [D, D], inverse of the shrunken covariance times its trace
    center: np.ndarray  # float32 [D], mean of the class means
    scatter: float  # mean squared distance of an image to its class's true mean


def fit_discriminant(
    embeddings: np.ndarray, labels: np.ndarray, num_classes: int, *, shrinkage: float = SHRINKAGE
) -> Discriminant:
    """Fits the classifier; O(N D^2 + D^3 + C D^2) time, in float64 where it matters.

    Args:
      embeddings: float32 [N, D].
      labels: int [N]; every class has an image.
      num_classes: C.
      shrinkage: share of the mean variance blended into every direction, above 0, to 1; 1 leaves
        nearest class means.

    Raises:
      UserError: a class without an image, an embedding that is not finite.
    """
    means = class_means(embeddings, labels, num_classes)
    counts = class_counts(labels, num_classes)
    covariance = covariance_within_classes(embeddings, labels, means, counts)
    dimension = len(covariance)
    trace = float(np.trace(covariance))
    if trace <= _COLLAPSED * float(np.mean(np.square(means).sum(axis=1))):
        # No class has two different images: every direction tells alike.
        covariance, shrunken = np.zeros_like(covariance), np.eye(dimension)
    else:
        mean_variance = trace / dimension
        shrunken = (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(dimension)
        shrunken /= trace
    precision = np.linalg.inv(shrunken).astype(np.float32)
    center = means.mean(axis=0, dtype=np.float64).astype(np.float32)
    scatter = float((precision * covariance).sum())
    kernel, bias = class_columns(means, counts, precision=precision, center=center, scatter=scatter)
    return Discriminant(kernel, bias, precision, center, scatter)


def choose_shrinkage(
    embeddings: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int = 0
) -> float:
    """The shrinkage for long vectors, by cross-validation within the training images.

    A fifth is right for embeddings that were trained; the many numbers of a pretrained network have
    more directions than images, and want more. Of the shrinkages within one standard error of the
    best the largest is taken, as it leans least on what few images say.

    Args:
      embeddings: float32 [N, D].
      labels: int [N].
      num_classes: C.
      seed: of the folds.

    Returns:
      One of SHRINKAGES; SHRINKAGE where no class has two images.
    """
    folds = _folds(labels, seed=seed)
    right = np.zeros((len(SHRINKAGES), len(labels)), bool)
    judged = np.zeros(len(labels), bool)
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any():
            continue
        judged |= held
        for place, scores in enumerate(
            _scores_by_shrinkage(embeddings[~held], labels[~held], embeddings[held], num_classes)
        ):
            right[place, held] = scores.argmax(axis=1) == labels[held]
    if not judged.any():
        return SHRINKAGE
    _, places, counts = np.unique(labels[judged], return_inverse=True, return_counts=True)
    weights = 1.0 / counts[places] / len(counts)  # classes count alike
    found = right[:, judged].astype(np.float64)
    accuracies = found @ weights
    best = int(accuracies.argmax())
    errors = np.sqrt(np.square((found[best] - found) * weights).sum(axis=1))
    close = np.flatnonzero(accuracies >= accuracies[best] - errors)
    return SHRINKAGES[int(close.max())]


def _folds(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """The fold of each image, int [N]; -1 for the only image of a class, which is never held."""
    draws = np.random.default_rng(seed)
    folds = np.full(len(labels), -1)
    for class_id in np.unique(labels):
        rows = draws.permutation(np.flatnonzero(labels == class_id))
        if len(rows) > 1:
            folds[rows] = (np.arange(len(rows)) + draws.integers(FOLDS)) % FOLDS
    return folds


def _scores_by_shrinkage(
    embeddings: np.ndarray, labels: np.ndarray, unseen: np.ndarray, num_classes: int
) -> Iterator[np.ndarray]:
    """Scores [V, C] of `unseen` at each of SHRINKAGES, from one decomposition."""
    means = class_means(embeddings, labels, num_classes)
    counts = class_counts(labels, num_classes)
    covariance = covariance_within_classes(embeddings, labels, means, counts)
    dimension, trace = len(covariance), max(float(np.trace(covariance)), 1e-30)
    variances, axes = np.linalg.eigh(covariance / trace)
    variances = np.maximum(variances, 0.0)
    center = means.mean(axis=0, dtype=np.float64)
    turned, turned_means = (unseen - center) @ axes, (means - center) @ axes
    for shrinkage in SHRINKAGES:
        precision = 1.0 / ((1 - shrinkage) * variances + shrinkage / dimension)
        columns = turned_means * precision
        scatter = trace * float((precision * variances).sum())
        bias = 0.5 * CORRECTED * scatter / counts - 0.5 * (turned_means * columns).sum(axis=1)
        yield turned @ columns.T + bias


def class_columns(
    means: np.ndarray, counts: np.ndarray, *, precision: Any, center: Any, scatter: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel float32 [D, n] and bias [n] of classes by their means [n, D] of `counts` [n] images.

    The other arguments are those of a `Discriminant`.
    """
    kernel = np.empty(means.shape[::-1], np.float32)
    bias = np.empty(len(means), np.float32)
    for rows in _pieces(means):
        offsets = means[rows].astype(np.float64) - center
        columns = offsets @ precision  # it is symmetric
        kernel[:, rows] = columns.T
        bias[rows] = -0.5 * (offsets * columns).sum(axis=1) - columns @ center
        bias[rows] += 0.5 * CORRECTED * scatter / counts[rows]
    return kernel, bias


def _pieces(table: np.ndarray) -> Iterator[slice]:
    step = max(1, _CELLS // table.shape[1])
    return (slice(start, start + step) for start in range(0, len(table), step))


def covariance_within_classes(
    embeddings: np.ndarray, labels: np.ndarray, means: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Covariance [D, D] of images around their class mean, every class alike.

    A class of n images has n - 1 degrees of freedom left around its own mean, of n: without that
    correction classes of one image, which lie on theirs, would make all classes look compact.
    """
    total = np.zeros((means.shape[1], means.shape[1]))
    for rows in _pieces(embeddings):
        ids = labels[rows]
        scatter = (embeddings[rows] - means[ids]) / np.sqrt(counts[ids])[:, np.newaxis]
        total += scatter.T @ scatter
    freedom = float(((counts - 1) / counts).sum())
    return total / freedom if freedom else total
