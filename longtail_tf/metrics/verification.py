"""Verification: do two images show the same class? True-accept rate at a fixed false-accept rate.

This is the number of face and product verification, where a pair of images is accepted when their
cosine reaches a threshold set by how many wrong pairs may pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_embeddings, unit_rows

_CHUNK_PAIRS = 1 << 18


def tar_at_far(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    false_accept_rates: Sequence[float] = (1e-2, 1e-3),
    max_pairs: int = 1_000_000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Returns the share of same-class pairs accepted at each false-accept rate.

    Args:
      embeddings: float [N, D]; compared by cosine.
      labels: int [N].
      false_accept_rates: shares 0..1 of different-class pairs that may be accepted.
      max_pairs: all pairs are used up to this many of a kind; beyond it, that many drawn at random.
      seed: for that draw.

    Returns:
      {"tar_at_far_0.01": ...}, 0..1; None where there are too few different-class pairs to measure
      that rate (fewer than 1 / rate).
    """
    vectors, labels = checked_embeddings(embeddings, labels)
    vectors = unit_rows(vectors)
    rng = np.random.default_rng(seed)
    same = _same_class_pairs(labels, max_pairs, rng)
    different = _different_class_pairs(labels, max_pairs, rng)
    if not len(same) or not len(different):
        raise UserError(
            f"{len(labels)} images of {len(np.unique(labels))} classes give no pair of one class "
            "or no pair of two classes; verification needs both kinds"
        )
    genuine = _similarities(vectors, same)
    impostor = np.sort(_similarities(vectors, different))
    result: dict[str, float | None] = {}
    for rate in false_accept_rates:
        allowed = int(np.floor(rate * len(impostor) * (1 + 1e-12)))
        key = f"tar_at_far_{rate:g}"
        if not allowed:
            result[key] = None
            continue
        # Strictly above the first impostor that must stay out, so that a tie never passes.
        barred = impostor[-allowed - 1] if allowed < len(impostor) else -np.inf
        result[key] = float(np.mean(genuine > barred))
    return result


def _similarities(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    result = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        left, right = pairs[start : start + _CHUNK_PAIRS].T
        result[start : start + len(left)] = np.einsum("nd,nd->n", vectors[left], vectors[right])
    return result


def _same_class_pairs(labels: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
    sizes = np.diff(np.append(starts, len(labels)))
    pairs_of = sizes * (sizes - 1) // 2
    ends = np.cumsum(pairs_of)
    total = int(ends[-1])
    picked = rng.integers(total, size=limit) if total > limit else np.arange(total)
    group = np.searchsorted(ends, picked, side="right")
    first, second = _unrank(picked - (ends - pairs_of)[group])
    return np.stack([order[starts[group] + first], order[starts[group] + second]], axis=1)


def _unrank(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps 0, 1, 2, ... to the pairs (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    second = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > number  # the root may round up
    second += second * (second + 1) // 2 <= number  # or down
    return number - second * (second - 1) // 2, second


def _different_class_pairs(labels: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    count = len(labels)
    if count * (count - 1) // 2 <= limit:
        pairs = np.stack(np.triu_indices(count, 1), axis=1)
    else:
        pairs = rng.integers(count, size=(limit, 2))
    return pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
