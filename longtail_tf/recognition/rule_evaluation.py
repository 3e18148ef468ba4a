"""From a fitted `Recognizer` to the accuracy table, one row a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longtail_tf.metrics import (
    balanced_accuracy,
    confusion_rates,
    expected_calibration_error,
    macro_f1,
    shot_accuracy,
    top_k_accuracy,
    worst_class_recall,
)
from longtail_tf.metrics.bootstrap import bootstrap_intervals
from longtail_tf.recognition.embedded import Embedded, checked_embedded
from longtail_tf.recognition.recognizer import Predictions, Recognizer
from longtail_tf.recognition.rule_selection import unknown_scores
from longtail_tf.recognition.unknowns import score_unknowns
from longtail_tf.settings.choices import RULES


def evaluate_rules(
    recognizer: Recognizer,
    embedded: Embedded,
    *,
    train_counts: np.ndarray,
    rules: Sequence[str] = RULES,
    seed: int = 0,
    replicates: int = 1000,
    test_prior: np.ndarray | None = None,
    found: Mapping[str, Predictions] | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns the metrics of each rule the recognizer can apply, ready for JSON.

    No image is rejected here: the table is about telling classes apart.

    Args:
      recognizer: as fitted.
      embedded: the images to judge it on.
      train_counts: int [C], training images of each class, for the shot bands.
      rules: those wanted; one that was not fitted has no entry.
      seed: of the bootstrap; the same draws for every rule, so rules compare image by image.
      replicates: of the bootstrap; 0 leaves the intervals out.
      test_prior: float [C], how often each class is expected; None: all alike.
      found: what `predict_rules` returns, where the caller has it already.
    """
    embedded = checked_embedded(
        embedded,
        num_classes=recognizer.num_classes,
        num_head=recognizer.num_head,
        name="evaluation",
    )
    if found is None:
        found = predict_rules(recognizer, embedded, rules=rules, test_prior=test_prior)
    return {
        rule: prediction_metrics(
            predictions,
            embedded.labels,
            train_counts=train_counts,
            num_head=recognizer.num_head,
            seed=seed,
            replicates=replicates,
        )
        for rule, predictions in found.items()
    }


def predict_rules(
    recognizer: Recognizer,
    embedded: Embedded,
    *,
    rules: Sequence[str] = RULES,
    test_prior: np.ndarray | None = None,
) -> dict[str, Predictions]:
    """Returns the five best classes of each image by each rule the recognizer can apply.

    Args are those of `evaluate_rules`.
    """
    available = recognizer.available_rules(has_head_logits=embedded.head_logits is not None)
    return {
        rule: recognizer.predict(
            rule,
            embedded.embeddings,
            embedded.head_logits,
            # What `head_only` puts behind its head classes are no guesses.
            k=min(5, recognizer.num_head) if rule == "head_only" else 5,
            test_prior=test_prior,
        )
        for rule in rules
        if rule in available
        and (rule != "gated" or embedded.head_logits is not None or not recognizer.gate_weight)
    }


def prediction_metrics(
    predictions: Predictions,
    labels: np.ndarray,
    *,
    train_counts: np.ndarray,
    num_head: int,
    seed: int = 0,
    replicates: int = 1000,
) -> dict[str, Any]:
    """Returns one rule's row of evaluation.json: fractions 0..1, None for an empty band."""
    best = predictions.class_ids[:, 0]
    row: dict[str, Any] = dict(shot_accuracy(labels, best, train_counts))
    row["balanced"] = balanced_accuracy(labels, best)
    row["macro_f1"] = macro_f1(labels, best)
    row["top5"] = top_k_accuracy(labels, predictions.class_ids[:, :5])
    row["worst_class_recall"] = worst_class_recall(labels, best)
    row["ece"] = expected_calibration_error(
        np.minimum(predictions.probabilities[:, 0], 1.0), best == labels
    )
    row.update(confusion_rates(labels, best, num_head))
    if replicates:
        row["intervals"] = bootstrap_intervals(
            labels, best, train_counts, seed=seed, replicates=replicates
        )
    return row


def unknown_metrics(recognizer: Recognizer, val: Embedded) -> dict[str, float]:
    """Returns AUROC, FPR at 95 % TPR and both error rates at the recognizer's threshold.

    Unknown images are `val`'s own, with their class's prototypes taken away; classes count equally.
    """
    found = unknown_scores(recognizer, val)
    return score_unknowns(
        found.known,
        found.unknown,
        threshold=recognizer.threshold,
        known_labels=found.labels,
        unknown_labels=found.labels,
    )
