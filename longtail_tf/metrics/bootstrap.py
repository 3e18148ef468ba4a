"""Bootstrap intervals: how far a table's numbers would move with other test images.

Test images are resampled within each class, as a long-tailed test set is made class by class. A
class with a single test image cannot vary on its own, which would claim certainty where there is
least of it: such classes of one shot band are resampled together (collapsed strata, Cochran,
Sampling Techniques, section 5A.12).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_class_ids
from longtail_tf.metrics.shot_bands import BANDS, band_ids

_CELLS = 4 << 20  # resampled images, or classes, held at once


def bootstrap_replicates(
    labels: np.ndarray,
    predictions: np.ndarray,
    train_counts: np.ndarray,
    *,
    seed: int,
    replicates: int = 1000,
) -> dict[str, np.ndarray]:
    """Returns each metric's value on resampled test sets.

    One seed draws the same test sets for any predictions on the same labels, so two models compare
    image by image: subtract their replicates and pass the difference to `interval`.

    Args:
      labels: int [N], true class ids.
      predictions: int [N], predicted class ids, -1 for a rejected image.
      train_counts: int [C], training images of each class.
      seed: of the resampling.
      replicates: R, resampled test sets.

    Returns:
      {"all", "many", "medium", "few", "balanced", "macro_f1"}: float64 [R]; a band without test
      images has no entry.
    """
    bands = band_ids(train_counts)
    labels, predictions, num_classes = checked_class_ids(labels, predictions, len(bands))
    if replicates < 2:
        raise UserError(f"{replicates} bootstrap replicates came; use at least 2, 1000 is usual")
    tested, labels = np.unique(labels, return_inverse=True)
    position = np.full(num_classes + 1, -1)  # the last place is for -1, a rejected image
    position[tested] = np.arange(len(tested))
    predictions, bands = position[predictions], bands[tested]
    starts, sizes, order = _strata(labels, bands)
    rng = np.random.default_rng(seed)
    columns: dict[str, list[np.ndarray]] = {}
    step = max(1, _CELLS // max(len(labels), len(tested)))
    for begin in range(0, replicates, step):
        rows = min(step, replicates - begin)
        drawn = order[starts + (rng.random((rows, len(labels))) * sizes).astype(np.int64)]
        for name, values in _metrics(labels[drawn], predictions[drawn], bands).items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def bootstrap_intervals(
    labels: np.ndarray,
    predictions: np.ndarray,
    train_counts: np.ndarray,
    *,
    seed: int,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> dict[str, list[float]]:
    """Returns [low, high] of each metric: the percentile bootstrap interval, fractions 0..1.

    Args and keys are those of `bootstrap_replicates`.
    """
    drawn = bootstrap_replicates(
        labels, predictions, train_counts, seed=seed, replicates=replicates
    )
    return intervals(drawn, confidence=confidence)


def intervals(
    replicates: Mapping[str, np.ndarray], *, confidence: float = 0.95
) -> dict[str, list[float]]:
    """Returns the central `confidence` (0..1) interval [low, high] of each entry."""
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95")
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: np.nanquantile(values, tails).tolist() for name, values in replicates.items()}


def _strata(labels: np.ndarray, bands: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stratum start and size at each place of a list sorted by stratum, and that list of rows."""
    alone = np.bincount(labels)[labels] == 1
    stratum = np.where(alone, len(bands) + bands[labels], labels)
    order = np.argsort(stratum, kind="stable")
    ordered = stratum[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    sizes = np.diff(np.append(starts, len(labels)))
    return np.repeat(starts, sizes), np.repeat(sizes, sizes), order


def _metrics(
    labels: np.ndarray, predictions: np.ndarray, bands: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of each row of int [R, N] labels and predictions, in positions of tested classes."""
    rows, classes = len(labels), len(bands)
    offset = np.arange(rows)[:, None] * classes

    def counts(chosen: np.ndarray, where: np.ndarray) -> np.ndarray:
        flat = (chosen + offset)[where]
        return np.bincount(flat, minlength=rows * classes).reshape(rows, classes)

    hits = labels == predictions
    right = counts(labels, hits)
    true = counts(labels, np.ones_like(hits))
    predicted = counts(predictions, predictions >= 0)
    present = true > 0
    recall = np.where(present, right / np.maximum(true, 1), np.nan)
    f1 = np.where(present, 2.0 * right / np.maximum(true + predicted, 1), np.nan)
    result = {
        "all": hits.mean(axis=1),
        "balanced": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    for band, name in enumerate(BANDS):
        if (bands == band).any():
            result[name] = np.nanmean(recall[:, bands == band], axis=1)
    return result
