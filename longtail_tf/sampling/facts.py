"""What PK batches do to a long tail: passes, repeats, coverage. Pure functions of the counts."""

from __future__ import annotations

from typing import Any

import numpy as np


def pk_facts(
    class_counts: np.ndarray,
    *,
    classes_per_batch: int,
    images_per_class: int,
    class_rates: np.ndarray | None = None,
    steps_per_class_pass: int | None = None,
) -> dict[str, Any]:
    """Passes and repeats of PK batches on these class counts; everything can go into a json.

    Args:
        class_counts: images of each class [C], each at least 1.
        classes_per_batch: P.
        images_per_class: K.
        class_rates: expected visits of each class per batch [C]; all alike by default.
        steps_per_class_pass: steps until every class has come; ceil(C / P) by default.

    Returns:
        `classes`, `images`, `singletons` (classes with one image), `classes_under_k`;
        `steps_per_class_pass`; `steps_per_image_pass`: until batches have had as many slots as
        there are images; `steps_until_every_image`: until the largest class has shown all of
        its images; `repeat_share`: slots whose image is already in the batch, 0..1;
        `same_image_pair_share`: positive pairs that are one image twice, 0..1.
    """
    counts = np.asarray(class_counts).astype(np.int64)
    k = images_per_class
    rates = np.full(len(counts), classes_per_batch / len(counts))
    if class_rates is not None:
        rates = class_rates
    weights = rates / rates.sum()
    each, more = np.divmod(k, counts)  # `more` of the images come each + 1 times, the rest each
    same_pairs = more * (each + 1) * each + (counts - more) * each * (each - 1)
    longest = np.ceil(-(-counts // k) / rates)
    return {
        "classes": len(counts),
        "images": int(counts.sum()),
        "classes_per_batch": int(classes_per_batch),
        "images_per_class": int(k),
        "batch_size": int(classes_per_batch * k),
        "singletons": int((counts == 1).sum()),
        "classes_under_k": int((counts < k).sum()),
        "steps_per_class_pass": int(steps_per_class_pass or -(-len(counts) // classes_per_batch)),
        "steps_per_image_pass": int(-(-counts.sum() // (classes_per_batch * k))),
        "steps_until_every_image": int(longest.max()),
        "repeat_share": float(weights @ (np.maximum(0, k - counts) / k)),
        "same_image_pair_share": float(weights @ (same_pairs / (k * (k - 1)))),
    }


def images_seen(
    class_counts: np.ndarray, visits: np.ndarray, *, images_per_class: int
) -> dict[str, Any]:
    """What was seen after each class was visited `visits` times [C], K images a visit."""
    counts = np.asarray(class_counts).astype(np.int64)
    slots = int(visits.sum()) * images_per_class
    repeats = int((visits * np.maximum(0, images_per_class - counts)).sum())
    return {
        "classes": int((visits > 0).sum()),
        "images": int(np.minimum(counts, visits * images_per_class).sum()),
        "slots": slots,
        "repeats": repeats,
        "repeat_share": repeats / slots if slots else 0.0,
        "class_passes": int(visits.min()),
    }
