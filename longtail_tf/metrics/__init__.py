"""Numbers of a recogniser: accuracy by class and band, retrieval, verification, calibration."""

from __future__ import annotations

from longtail_tf.metrics.accuracy import (
    balanced_accuracy,
    confusion_rates,
    macro_f1,
    per_class_accuracy,
    per_class_precision,
    shot_accuracy,
    top_k_accuracy,
    worst_class_recall,
)
from longtail_tf.metrics.calibration import expected_calibration_error
from longtail_tf.metrics.retrieval import map_at_r, recall_at_k, retrieval_metrics
from longtail_tf.metrics.verification import tar_at_far

__all__ = [
    "balanced_accuracy",
    "confusion_rates",
    "expected_calibration_error",
    "macro_f1",
    "map_at_r",
    "per_class_accuracy",
    "per_class_precision",
    "recall_at_k",
    "retrieval_metrics",
    "shot_accuracy",
    "tar_at_far",
    "top_k_accuracy",
    "worst_class_recall",
]
