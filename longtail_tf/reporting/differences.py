"""Paired differences between runs, with 95 % intervals.

Two runs are compared on the same test images, so their difference is far more certain than their
two accuracies: images that both name right, or both name wrong, cancel out. Over seeds the
interval holds the training's own randomness too; over images of one run each it does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from longtail_tf.metrics import shot_accuracy
from longtail_tf.metrics.bootstrap import bootstrap_replicates, intervals
from longtail_tf.reporting.run_data import GROUPS


class Difference(NamedTuple):
    """A mean difference of two accuracies, second minus first, as fractions.

    Attributes:
      mean, low, high: the difference and its 95 % interval.
      over: "seeds" or "images".
      pairs: how many seeds or images it is taken over.
    """

    mean: float
    low: float
    high: float
    over: str
    pairs: int

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "no clear difference" where the interval holds 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"


def over_seeds(first: np.ndarray, second: np.ndarray) -> Difference:
    """The paired t interval.

    Args:
      first, second: float [S], the accuracies of two settings at the same S >= 2 seeds.
    """
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    seeds = len(differences)
    mean = float(differences.mean())
    half = t_quantile(seeds - 1) * float(differences.std(ddof=1)) / math.sqrt(seeds)
    return Difference(mean, mean - half, mean + half, "seeds", seeds)


def over_images(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    train_counts: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Difference | None]:
    """The paired percentile bootstrap over test images, as the report's own intervals.

    Args:
      labels: int [N], true class ids.
      first, second: int [N], the class ids each run named; -1 for a rejected image.
      train_counts: int [C], training images of each class.
      seed: of the resampling.

    Returns:
      A difference for "all" and each band; None where no test image falls in the band.
    """
    drawn, point = [], []
    for predictions in (first, second):
        # One seed draws the same test sets for both runs, so their replicates are pairs.
        drawn.append(bootstrap_replicates(labels, predictions, train_counts, seed=seed))
        point.append(shot_accuracy(labels, predictions, train_counts))
    paired = {group: drawn[1][group] - drawn[0][group] for group in GROUPS if group in drawn[0]}
    ends = intervals(paired)
    found: dict[str, Difference | None] = {}
    for group in GROUPS:
        before, after = point[0][group], point[1][group]
        if group not in ends or before is None or after is None:
            found[group] = None
            continue
        low, high = ends[group]
        found[group] = Difference(after - before, low, high, "images", len(labels))
    return found


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection on its distribution function.

    Args:
      degrees: degrees of freedom, 1 or more.
    """
    low, high = 1.9, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        if _t_within(middle, degrees) < 0.95:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_within(t: float, degrees: int) -> float:
    """P(|T| < t): the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0
    for step in range((degrees - 1) // 2 if odd else degrees // 2):
        total += term
        next_odd = 2 * step + (2 if odd else 1)
        term *= cosine * cosine * next_odd / (next_odd + 1)
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
