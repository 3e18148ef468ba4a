"""How far confidence can be trusted: calibration error, reliability bins, temperature scaling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

import numpy as np

from longtail_tf.errors import UserError

_IMPOSSIBLE = -1e8  # a class this far behind is one that its rule cannot name
NUM_BINS = 15  # as MiSLAS (Zhong 2021, arXiv:2104.00466) and most calibration tables use


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Returns log-probabilities of float [N, C] scores, same dtype; finite rows stay finite."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def expected_calibration_error(
    confidences: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS
) -> float:
    """Returns the expected calibration error, 0..1 (Guo 2017, arXiv:1706.04599, section 2).

    Args:
      confidences: float [N], the probability given to each prediction; or float [N, C], the
        probabilities of all classes, of which the largest is the prediction.
      correct: bool [N], whether the prediction was right; with [N, C] probabilities the int [N]
        true class ids.
      num_bins: equal-width bins over (0, 1].

    Returns:
      The mean over images of |accuracy - mean confidence| of the image's bin.
    """
    bins = reliability_bins(confidences, correct, num_bins)
    gap = np.abs(bins["accuracy"] - bins["confidence"])
    weight = bins["images"] / bins["images"].sum()
    return float(np.sum(weight[weight > 0] * gap[weight > 0]))


def reliability_bins(
    confidences: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS
) -> dict[str, np.ndarray]:
    """Returns what a calibration plot draws.

    Args are those of `expected_calibration_error`.

    Returns:
      {"low", "high", "images", "accuracy", "confidence"}, each [num_bins]; accuracy and mean
      confidence are NaN in a bin without images.
    """
    confidences, correct = np.asarray(confidences, np.float64), np.asarray(correct)
    if confidences.ndim == 2 and len(confidences) == len(correct):
        correct = confidences.argmax(axis=1) == correct
        confidences = confidences.max(axis=1)
    if confidences.ndim != 1 or confidences.shape != correct.shape or not correct.size:
        raise UserError(
            f"confidences have shape {confidences.shape} and correct {correct.shape}; expected "
            "one value for each of one or more images in both"
        )
    if not (confidences.min() >= 0 and confidences.max() <= 1 + 1e-6):
        raise UserError(
            f"confidences run from {confidences.min():g} to {confidences.max():g}; expected "
            "probabilities within 0..1: apply a softmax to scores first"
        )
    # (low, high] bins: a probability of exactly 1 belongs to the last one.
    which = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    images = np.bincount(which, minlength=num_bins)
    mean = {}
    for name, values in (("accuracy", correct.astype(np.float64)), ("confidence", confidences)):
        total = np.bincount(which, weights=values, minlength=num_bins)
        mean[name] = np.divide(total, images, out=np.full(num_bins, np.nan), where=images > 0)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    return {"low": edges[:-1], "high": edges[1:], "images": images, **mean}


def fit_temperature(
    score_chunks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    *,
    low: float = 1e-4,
    high: float = 1e3,
    tolerance: float = 1e-3,
) -> float:
    """Returns the temperature T > 0 that minimises the NLL of softmax(scores / T).

    Dividing by T never changes a ranking. The NLL is convex in 1/T, so its derivative is bisected
    on a logarithmic scale, with Newton steps where they stay inside the bracket.
    Guo 2017, arXiv:1706.04599, section 4.2.

    One image's worth of evidence is added that the answer is the runner-up. Without it, a small
    validation set that happens to be all right would ask for certainty.

    Args:
      score_chunks: called once a pass (about ten passes); yields (scores float [n, C], labels int
        [n]) pieces, so that [N, C] never has to exist at once.
      low: smallest temperature that may be returned.
      high: largest temperature that may be returned; scores that say nothing end there.
      tolerance: relative accuracy of T.
    """
    bottom, top = -np.log(high), -np.log(low)  # the search is over log(1/T)
    at = min(max(0.0, bottom), top)
    for _ in range(60):
        slope, curvature = _nll_slope(score_chunks(), float(np.exp(at)))
        if slope > 0:
            top = at
        else:
            bottom = at
        step = at - slope / curvature if curvature > 0 else np.nan
        inside = bottom < step < top
        previous, at = at, step if inside else 0.5 * (bottom + top)
        if top - bottom < tolerance or (inside and abs(at - previous) < tolerance):
            break
    return float(np.exp(-at))


def _nll_slope(
    chunks: Iterable[tuple[np.ndarray, np.ndarray]], inverse: float
) -> tuple[float, float]:
    """First and second derivative of the mean NLL by log(1/T), at 1/T = `inverse`."""
    first = second = doubt_first = 0.0
    images = 0
    for scores, labels in chunks:
        centred = scores - scores.max(axis=1, keepdims=True)
        weight = np.exp(inverse * centred)
        total = weight.sum(axis=1, dtype=np.float64)
        weight *= centred
        mean = weight.sum(axis=1, dtype=np.float64) / total
        weight *= centred
        square = weight.sum(axis=1, dtype=np.float64) / total
        right = centred[np.arange(len(labels)), labels].astype(np.float64)
        first += float(np.sum(mean - right))
        second += float(np.sum(square - mean * mean))
        doubt_first += float(np.sum(mean - _runner_up(centred)))
        images += len(labels)
    if not images:
        raise UserError("no validation image came; a temperature needs at least one")
    slope = inverse * (first + doubt_first / images) / (images + 1)
    return slope, inverse * inverse * second / images + slope


def _runner_up(centred: np.ndarray) -> np.ndarray:
    """Second-largest value of each row [n]; the largest where no other class is possible."""
    if centred.shape[1] < 2:
        return np.zeros(len(centred))
    second = np.partition(centred, -2, axis=1)[:, -2].astype(np.float64)
    return np.where(second > _IMPOSSIBLE, second, 0.0)
