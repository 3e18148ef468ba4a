"""Classification metrics for long-tailed data: every number the accuracy tables print.

A prediction is a class id; -1 stands for "rejected as unknown" and is never right. A class without
test images takes no part in any mean over classes (scikit-learn's `balanced_accuracy_score` does
the same): its recall is undefined, not zero, and per-class arrays hold NaN there.
"""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_class_ids
from longtail_tf.metrics.shot_bands import BANDS, band_ids


def shot_accuracy(
    labels: np.ndarray, predictions: np.ndarray, train_counts: np.ndarray
) -> dict[str, float | None]:
    """Returns accuracy over all test images and over each shot band.

    As OLTR's `shot_acc` and Kang 2020 (arXiv:1910.09217, section 5.1): `all` is the share of test
    images that are right (micro); a band is the mean over its classes of each class's own accuracy
    (macro). On a test set with equally many images a class both readings agree.

    Args:
      labels: int [N], true class ids.
      predictions: int [N], predicted class ids.
      train_counts: int [C], training images of each class.

    Returns:
      {"all", "many", "medium", "few"}: fractions 0..1; None where no test image falls in the band.

    Raises:
      UserError: arrays of different length, no image, or a label that `train_counts` lacks.
    """
    bands = band_ids(train_counts)
    recall = per_class_accuracy(labels, predictions, len(bands))
    tested = ~np.isnan(recall)
    result: dict[str, float | None] = {"all": float(np.mean(_hits(labels, predictions)))}
    for band, name in enumerate(BANDS):
        members = tested & (bands == band)
        result[name] = float(recall[members].mean()) if members.any() else None
    return result


def per_class_accuracy(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int | None = None
) -> np.ndarray:
    """Returns each class's recall: float64 [C], NaN for a class without test images.

    Args:
      labels: int [N], true class ids.
      predictions: int [N], predicted class ids.
      num_classes: C; default: one more than the largest id in either array.
    """
    labels, predictions, num_classes = checked_class_ids(labels, predictions, num_classes)
    right = np.bincount(labels[labels == predictions], minlength=num_classes)
    return _share(right, np.bincount(labels, minlength=num_classes))


def per_class_precision(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int | None = None
) -> np.ndarray:
    """Returns each class's precision: float64 [C], NaN for a class that was never predicted."""
    labels, predictions, num_classes = checked_class_ids(labels, predictions, num_classes)
    right = np.bincount(labels[labels == predictions], minlength=num_classes)
    return _share(right, np.bincount(predictions[predictions >= 0], minlength=num_classes))


def balanced_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the mean recall over the classes that have test images, 0..1."""
    return float(np.nanmean(per_class_accuracy(labels, predictions)))


def worst_class_recall(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the lowest recall of any class that has test images, 0..1."""
    return float(np.nanmin(per_class_accuracy(labels, predictions)))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the mean F1 over the classes that have test images, 0..1.

    A class that is only ever predicted lowers the recall of the classes it took images from; it is
    not counted again as a zero of its own. This equals scikit-learn's
    `f1_score(..., labels=np.unique(labels), average="macro")`.
    """
    labels, predictions, num_classes = checked_class_ids(labels, predictions, None)
    right = np.bincount(labels[labels == predictions], minlength=num_classes)
    true = np.bincount(labels, minlength=num_classes)
    predicted = np.bincount(predictions[predictions >= 0], minlength=num_classes)
    tested = true > 0
    return float(np.mean(2.0 * right[tested] / (true + predicted)[tested]))


def top_k_accuracy(labels: np.ndarray, ranked: np.ndarray) -> float:
    """Returns the share of images whose class is among the ranked guesses, 0..1.

    Args:
      labels: int [N], true class ids.
      ranked: int [N, k], the k best class ids of each image.
    """
    labels, ranked = np.asarray(labels), np.asarray(ranked)
    if ranked.ndim != 2 or len(ranked) != len(labels) or not len(labels):
        raise UserError(
            f"ranked has shape {ranked.shape} for {len(labels)} labels; expected [N, k] with one "
            "row of k class ids for each label"
        )
    return float(np.mean((ranked == labels[:, None]).any(axis=1)))


def confusion_rates(
    labels: np.ndarray, predictions: np.ndarray, num_head: int
) -> dict[str, float | None]:
    """Returns how often images cross the head/tail border.

    Head classes are ids below `num_head`. `head_to_tail` is the share of head images that are
    given a tail class, `tail_to_head` the share of tail images that are given a head class; each is
    None where there is no such image.
    """
    labels, predictions, _ = checked_class_ids(labels, predictions, None)
    head = labels < num_head
    to_tail, to_head = predictions >= num_head, (predictions >= 0) & (predictions < num_head)
    return {
        "head_to_tail": float(np.mean(to_tail[head])) if head.any() else None,
        "tail_to_head": float(np.mean(to_head[~head])) if (~head).any() else None,
    }


def _hits(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.asarray(labels) == np.asarray(predictions)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=share, where=whole > 0)
