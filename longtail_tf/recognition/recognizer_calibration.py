"""What a fitted `Recognizer` learns from validation images last: temperatures and the threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from longtail_tf.metrics.calibration import fit_temperature
from longtail_tf.recognition.embedded import Embedded
from longtail_tf.recognition.recognizer import Recognizer
from longtail_tf.recognition.unknowns import UnknownCalibration, calibrate_threshold

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
