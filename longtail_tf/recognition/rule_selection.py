"""Choices the inference rules leave open, made by balanced accuracy on validation images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from longtail_tf.metrics import balanced_accuracy
from longtail_tf.metrics.calibration import log_softmax
from longtail_tf.metrics.nearest_neighbours import nearest_neighbours
from longtail_tf.recognition.inference_rules import vote_weights, vote_winners

GATE_WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # cosine a nat of log-softmax
NEIGHBOURS = (1, 3, 5, 10, 20)
VOTE_POWERS = (0.0, 0.5, 1.0)
DEFAULT_NEIGHBOURS, DEFAULT_VOTE_POWER = 5, 0.5  # where there is no validation set to choose on
_VOTE_ROWS = 8192


def choose_gate_weight(
    score_chunks: Iterable[tuple[slice, np.ndarray]],
    head_logits: np.ndarray,
    labels: np.ndarray,
    *,
    weights: tuple[float, ...] = GATE_WEIGHTS,
) -> tuple[float, float]:
    """Returns the gate weight with the best balanced accuracy, and that accuracy.

    Among equals the smallest weight is taken, so 0 (no gate) has to be beaten.

    Args:
      score_chunks: (rows, prototype scores [n, C]) of the validation images.
      head_logits: float32 [V, H].
      labels: int [V].
      weights: to choose from.
    """
    num_head = head_logits.shape[1]
    predictions = np.empty((len(weights), len(labels)), np.int64)
    for rows, scores in score_chunks:
        best = scores.argmax(axis=1)
        gated = best < num_head
        head = log_softmax(head_logits[rows])
        for place, weight in enumerate(weights):
            ranked = (scores[:, :num_head] + np.float32(weight) * head).argmax(axis=1)
            predictions[place, rows] = np.where(gated, ranked, best)
    accuracies = [balanced_accuracy(labels, row) for row in predictions]
    place = int(np.argmax(accuracies))
    return float(weights[place]), accuracies[place]


def choose_votes(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    counts: np.ndarray,
    *,
    val_embeddings: np.ndarray | None,
    val_labels: np.ndarray | None,
    k: int | None,
) -> tuple[int, float]:
    """Returns k and the vote power of `knn` with the best balanced accuracy.

    Args:
      gallery: float32 [G, D], training embeddings.
      gallery_labels: int [G].
      counts: int [C], gallery images of each class.
      val_embeddings: float32 [V, D]; None keeps the defaults.
      val_labels: int [V].
      k: fixed by the user; None chooses from `NEIGHBOURS`.
    """
    wanted = NEIGHBOURS if k is None else (k,)
    wanted = tuple(one for one in wanted if one <= len(gallery)) or (len(gallery),)
    if val_embeddings is None or val_labels is None:
        return (min(k or DEFAULT_NEIGHBOURS, len(gallery)), DEFAULT_VOTE_POWER)
    rows, similarities = nearest_neighbours(val_embeddings, gallery, max(wanted))
    classes = gallery_labels[rows]
    best = (-1.0, 0, 0.0)
    for one in wanted:
        for power in VOTE_POWERS:
            winners = np.empty(len(classes), np.int64)
            for start in range(0, len(classes), _VOTE_ROWS):
                piece = slice(start, start + _VOTE_ROWS)
                votes = vote_weights(similarities[piece, :one], classes[piece, :one], counts, power)
                winners[piece] = vote_winners(votes, classes[piece, :one])
            accuracy = balanced_accuracy(val_labels, winners)
            if accuracy > best[0]:
                best = (accuracy, one, power)
    return best[1], best[2]
