"""The arithmetic of the inference rules, each a plain function of arrays.

Every function is a few operations that a TensorFlow graph can repeat: matrix product, maximum,
log-softmax, where.
"""

from __future__ import annotations

import numpy as np

from longtail_tf.metrics.calibration import log_softmax

NEVER = np.float32(-1e9)  # score of a class that a rule cannot name; finite, so that sums stay so
VOTE_SHARPNESS = 10.0  # exp(10 x cosine): a neighbour 0.1 farther weighs 0.37
_NO_VOTE = 1e-4  # share that stands for none, so that its logarithm is finite


def gated_scores(
    class_scores: np.ndarray, head_logits: np.ndarray, gate_weight: float
) -> np.ndarray:
    """Returns scores re-ranked within the head classes where the best prototype is a head class.

    The head softmax has no "none of these", so it is never asked whether an image belongs to the
    head; it only says which head class, once the prototypes say it is one. The re-ranked head keeps
    the best prototype's score as its top, so it stays comparable with the tail below.

    Args:
      class_scores: float32 [N, C], cosines to the prototypes.
      head_logits: float32 [N, H], of classes 0..H-1.
      gate_weight: weight of the head's log-softmax; 0 changes nothing.

    Returns:
      float32 [N, C].
    """
    if not gate_weight:
        return class_scores
    scores = class_scores.copy()
    num_head = head_logits.shape[1]
    gated = np.flatnonzero(scores.argmax(axis=1) < num_head)
    best = scores[gated].max(axis=1, keepdims=True)
    head = scores[gated, :num_head] + np.float32(gate_weight) * log_softmax(head_logits[gated])
    head += best - head.max(axis=1, keepdims=True)
    scores[gated, :num_head] = head
    return scores


def gated_lda_scores(
    lda_scores: np.ndarray,
    head_logits: np.ndarray,
    *,
    lda_temperature: float,
    head_temperature: float,
) -> np.ndarray:
    """Returns the log-likelihoods of `lda` plus the head's log-softmax, within the head classes.

    The two were learned in different ways and err on different images, so their opinions are worth
    adding up once each is calibrated; the gate is that of `gated_scores`. With a head of every
    class it is their plain sum.

    Args:
      lda_scores: float32 [N, C], raw.
      head_logits: float32 [N, H], raw.
      lda_temperature: what makes the first log-probabilities.
      head_temperature: what makes the second so.

    Returns:
      float32 [N, C].
    """
    return gated_scores(
        lda_scores / np.float32(lda_temperature), head_logits / np.float32(head_temperature), 1.0
    )


def head_only_scores(head_logits: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the head classifier's log-softmax, with `NEVER` for every tail class; [N, C]."""
    scores = np.full((len(head_logits), num_classes), NEVER, np.float32)
    scores[:, : head_logits.shape[1]] = log_softmax(head_logits)
    return scores


def corrected_scores(
    head_logits: np.ndarray, scales: np.ndarray | None, offsets: np.ndarray | None
) -> np.ndarray:
    """Returns head logits [N, C] of every class times `scales` plus `offsets`, [C] or None."""
    scores = head_logits if scales is None else head_logits * scales
    return scores if offsets is None else scores + offsets


def vote_weights(
    similarities: np.ndarray, neighbour_classes: np.ndarray, counts: np.ndarray, power: float
) -> np.ndarray:
    """Returns the weight of each neighbour's vote for its class.

    A near neighbour weighs more: exp(10 x cosine), as shares of all k. A class of n images can have
    at most min(n, k) of the k neighbours, so a tail class would lose by numbers alone; dividing by
    min(n, k) ** power evens that out: fully at power 1, not at all at 0.

    Args:
      similarities: float32 [N, k], best first.
      neighbour_classes: int [N, k].
      counts: int [C], gallery images of each class.
      power: 0..1.

    Returns:
      float32 [N, k].
    """
    near = np.exp(np.float32(VOTE_SHARPNESS) * (similarities - similarities[:, :1]))
    near /= near.sum(axis=1, keepdims=True)
    possible = np.minimum(counts[neighbour_classes], similarities.shape[1])
    return near / (possible.astype(np.float32) ** np.float32(power))


def vote_scores(
    weights: np.ndarray, neighbour_classes: np.ndarray, class_scores: np.ndarray
) -> np.ndarray:
    """Returns the log of each class's votes, float32 [N, C].

    Classes without a vote are ranked by prototype, as are exact ties: `class_scores` enter with a
    weight of 1/1000.
    """
    votes = np.full(class_scores.shape, _NO_VOTE, np.float32)
    rows = np.arange(len(votes))
    for weight, classes in zip(weights.T, neighbour_classes.T):
        votes[rows, classes] += weight  # one class a row: no index comes twice
    return np.log(votes) + np.float32(1e-3) * class_scores


def vote_winners(weights: np.ndarray, neighbour_classes: np.ndarray) -> np.ndarray:
    """Returns the class with most votes of each row, int [N], without an [N, C] table."""
    same = neighbour_classes[:, :, None] == neighbour_classes[:, None, :]
    votes = np.einsum("nij,nj->ni", same, weights)
    return neighbour_classes[np.arange(len(votes)), votes.argmax(axis=1)]
