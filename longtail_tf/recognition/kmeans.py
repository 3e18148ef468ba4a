"""Seeded k-means on the unit sphere, small and vectorised; for prototypes within one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longtail_tf.metrics.array_checks import unit_rows


def spherical_kmeans(
    points: np.ndarray, k: int, *, seed: int | Sequence[int], iterations: int = 25
) -> np.ndarray:
    """Returns cluster centres by cosine (Dhillon and Modha 2001), started by k-means++.

    Args:
      points: float32 [N, D], unit norm.
      k: clusters wanted.
      seed: of the start.
      iterations: at most this many; stops when no point moves.

    Returns:
      float32 [k', D], unit norm; k' < k where points have fewer than k distinct places.
    """
    centres = _plus_plus(points, k, np.random.default_rng(seed))
    member = np.full(len(points), -1)
    for _ in range(iterations):
        nearest = (points @ centres.T).argmax(axis=1)
        if np.array_equal(nearest, member):
            break
        member = nearest
        one_hot = (member[None] == np.arange(len(centres))[:, None]).astype(np.float32)
        filled = one_hot.sum(axis=1) > 0
        centres = unit_rows(one_hot[filled] @ points)
        member = (np.cumsum(filled) - 1)[member]
    return centres


def _plus_plus(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Picks starts far from each other (Arthur and Vassilvitskii 2007)."""
    chosen = [int(rng.integers(len(points)))]
    gap = np.full(len(points), np.inf)
    while len(chosen) < k:
        gap = np.minimum(gap, 1.0 - points @ points[chosen[-1]].astype(np.float64))
        gap[gap < 1e-6] = 0.0  # rounding would let a copy of a chosen point in
        if gap.sum() <= 0:
            break
        chosen.append(int(rng.choice(len(points), p=gap / gap.sum())))
    return points[chosen]
