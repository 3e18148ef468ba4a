"""Saying "I don't know": a rejection threshold, and how well it tells unknown classes apart.

An image is rejected when its best prototype score is below the threshold. Unknown images are not at
hand when the threshold is set, so known classes play them: each validation image is scored once as
it is, and once with its own class's prototypes taken away, as if it came from a class nobody
enrolled. The network has still been trained on that class, so true strangers may be somewhat
harder; a data set with classes that were held out of training (`score_unknowns`) measures that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError


class UnknownCalibration(NamedTuple):
    """The threshold and the scores behind it."""

    threshold: float  # accept an image when its best prototype score is at least this
    known: np.ndarray  # float32 [V], best score of each validation image
    unknown: np.ndarray  # float32 [V], the same without the image's own class
    labels: np.ndarray  # int [V]


def calibrate_threshold(
    score_chunks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    *,
    false_accept_rate: float,
) -> UnknownCalibration:
    """Returns the lowest threshold that accepts at most `false_accept_rate` of unknown images.

    Every class counts equally, however many validation images it has.

    Args:
      score_chunks: yields (class scores float32 [n, C], labels int [n]) of validation images.
      false_accept_rate: share 0..1 of unknown images that may be accepted.
    """
    if not 0 < false_accept_rate < 1:
        raise UserError(
            f"false_accept_rate is {false_accept_rate}; expected a share between 0 and 1, as 0.05"
        )
    known, unknown, labels = [], [], []
    for scores, chunk_labels in score_chunks():
        if scores.shape[1] < 2:
            raise UserError(
                "a rejection threshold needs at least two classes, to take one of them away; "
                "1 came"
            )
        known.append(scores.max(axis=1))
        others = scores.copy()
        others[np.arange(len(others)), chunk_labels] = -np.inf
        unknown.append(others.max(axis=1))
        labels.append(chunk_labels)
    if not labels:
        raise UserError("no validation image came; a rejection threshold needs at least one")
    known_scores, unknown_scores = np.concatenate(known), np.concatenate(unknown)
    ids = np.concatenate(labels)
    threshold = _threshold(unknown_scores, class_balanced_weights(ids), false_accept_rate)
    return UnknownCalibration(threshold, known_scores, unknown_scores, ids)


def class_balanced_weights(labels: np.ndarray) -> np.ndarray:
    """Returns weights [N] that sum to 1 and give every class that occurs the same share."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / (counts[inverse] * len(counts))


def _threshold(unknown: np.ndarray, weights: np.ndarray, rate: float) -> float:
    order = np.argsort(-unknown, kind="stable")
    accepted = np.cumsum(weights[order])
    barred = np.flatnonzero(accepted > rate * (1 + 1e-9))
    if not barred.size:  # a rate this high bars nobody
        return float(unknown.min())
    # Just above the best image that must stay out: its equals stay out as well.
    return float(np.nextafter(np.float32(unknown[order[barred[0]]]), np.float32(np.inf)))


def score_unknowns(
    known: np.ndarray,
    unknown: np.ndarray,
    *,
    threshold: float | None = None,
    known_labels: np.ndarray | None = None,
    unknown_labels: np.ndarray | None = None,
) -> dict[str, float]:
    """Returns how well a score tells known from unknown images.

    Args:
      known: float [K], best scores of images of known classes; higher means more surely known.
      unknown: float [U], best scores of images of unknown classes.
      threshold: also report the rates at this threshold.
      known_labels: int [K]; with it each class counts equally. None: each image does.
      unknown_labels: int [U], likewise.

    Returns:
      {"auroc", "fpr_at_95_tpr"} and, with a threshold, {"threshold", "false_accept_rate",
      "false_reject_rate"}; all 0..1 but the threshold. TPR is the share of known images accepted.
    """
    known, unknown = np.asarray(known), np.asarray(unknown)
    if not known.size or not unknown.size:
        raise UserError(
            f"{known.size} known and {unknown.size} unknown images came; both kinds are needed"
        )
    gain = _weights(known, known_labels)
    cost = _weights(unknown, unknown_labels)
    scores = np.concatenate([known, unknown])
    values, place = np.unique(scores, return_inverse=True)
    known_at = np.bincount(place[: len(known)], weights=gain, minlength=len(values))
    unknown_at = np.bincount(place[len(known) :], weights=cost, minlength=len(values))
    below = np.cumsum(unknown_at) - unknown_at
    accepted = np.cumsum(known_at[::-1])[::-1]  # share of known images at or above each value
    reached = np.flatnonzero(accepted >= 0.95 - 1e-9)[-1]
    result = {
        "auroc": float(np.sum(known_at * (below + 0.5 * unknown_at))),
        "fpr_at_95_tpr": float(np.clip(1.0 - below[reached], 0.0, 1.0)),
    }
    if threshold is not None:
        result["threshold"] = float(threshold)
        result["false_accept_rate"] = float(cost[unknown >= threshold].sum())
        result["false_reject_rate"] = float(gain[known < threshold].sum())
    return result


def _weights(scores: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        return np.full(len(scores), 1.0 / len(scores))
    return class_balanced_weights(labels)
