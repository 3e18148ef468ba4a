"""Choices the inference rules leave open, made by balanced accuracy on validation images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from longtail_tf.metrics import balanced_accuracy
from longtail_tf.metrics.calibration import fit_temperature, log_softmax
from longtail_tf.metrics.nearest_neighbours import nearest_neighbours
from longtail_tf.recognition.embedded import Embedded
from longtail_tf.recognition.inference_rules import vote_weights, vote_winners
from longtail_tf.recognition.recognizer import Recognizer
from longtail_tf.recognition.unknowns import UnknownCalibration, calibrate_threshold

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


DEFAULT_TEMPERATURE = 0.1  # of cosine scores where there is no validation set to fit it on
_TEMPERATURE_CELLS = 50_000_000  # validation scores behind a temperature: seconds, not minutes
_MIN_IMAGES = 200


def calibrate(
    recognizer: Recognizer,
    val: Embedded | None,
    *,
    rules: Sequence[str],
    seed: int,
    false_accept_rate: float,
    log: Callable[[str], None],
) -> Recognizer:
    """Returns the recognizer with a temperature for each rule and a rejection threshold.

    Without validation images, cosine scores get `DEFAULT_TEMPERATURE` and there is no threshold.
    """
    if val is None:
        # Scores of `lda` are in units of their scatter: 1 fits them, as it does the head's logits.
        fixed = {rule: DEFAULT_TEMPERATURE for rule in ("ncm", "gated")}
        return dataclasses.replace(recognizer, temperatures=fixed)
    available = recognizer.available_rules(has_head_logits=val.head_logits is not None)
    temperatures: dict[str, float] = {}
    for rule in available:  # those that `PARTS` names come before what is made of them
        if rule in rules or rule == "ncm":
            temperatures[rule] = rule_temperature(recognizer, rule, val, seed=seed)
            recognizer = dataclasses.replace(recognizer, temperatures=dict(temperatures))
    threshold = None
    if recognizer.num_classes > 1:
        threshold = unknown_scores(recognizer, val, false_accept_rate=false_accept_rate).threshold
        log(
            f"rejection threshold {threshold:.3f}: lets {false_accept_rate:.1%} of unknown images "
            f"through on {len(val.labels):,} validation images of {len(np.unique(val.labels)):,} "
            f"of {recognizer.num_classes:,} classes"
        )
    return dataclasses.replace(recognizer, threshold=threshold)


def rule_temperature(recognizer: Recognizer, rule: str, val: Embedded, *, seed: int) -> float:
    """Returns the temperature of one rule's raw scores, by NLL on validation images.

    Of very many scores a random part is used. `head_only` is judged on head images: it gives tail
    classes no chance, at any temperature.
    """
    rows = np.arange(len(val.labels))
    if rule == "head_only":
        rows = np.flatnonzero(val.labels < recognizer.num_head)
        if not rows.size:
            return 1.0
    limit = max(_MIN_IMAGES, _TEMPERATURE_CELLS // recognizer.num_classes)
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    part = val.take(rows)
    known = {name: t for name, t in recognizer.temperatures.items() if name != rule}
    raw = dataclasses.replace(recognizer, temperatures=known)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for piece, scores in raw.score_chunks(rule, part.embeddings, part.head_logits):
            yield scores, part.labels[piece]

    # Scores of `knn` are costly to make again for each pass of the fit: keep what fits.
    if len(rows) * recognizer.num_classes > _TEMPERATURE_CELLS:
        return fit_temperature(chunks)
    kept = list(chunks())
    return fit_temperature(lambda: kept)


def unknown_scores(
    recognizer: Recognizer, val: Embedded, *, false_accept_rate: float = 0.05
) -> UnknownCalibration:
    """Returns validation scores with and without each image's own class, and the threshold."""
    raw = dataclasses.replace(recognizer, temperatures={})

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for piece, scores in raw.score_chunks("ncm", val.embeddings):
            yield scores, val.labels[piece]

    return calibrate_threshold(chunks, false_accept_rate=false_accept_rate)
