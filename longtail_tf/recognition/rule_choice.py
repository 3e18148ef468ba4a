"""Which rule a run is read by, where that is left to the data: the simplest among the best.

Which rule reads a network best depends on the counts and on the features, so it is chosen by
balanced accuracy on images that the network was not trained on. On few images the best of ten rules
is the luckiest one: a rule that comes earlier in `PREFERENCE` is taken if it is within one standard
error of the best, so that only a clear lead decides against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from longtail_tf.metrics import balanced_accuracy

# Closed form and open to new classes first; those that need a head of every class last. Not `knn`,
# whose gallery is every training image: no export can hold it.
PREFERENCE = (
    "lda",
    "ncm",
    "gated_lda",
    "gated",
    "crt",
    "linear",
    "head_adjusted",
    "lws",
    "tau_norm",
    "head_only",
)
FEWEST_IMAGES = 50
_ROUNDING = 1e-9
SMALLEST_SHARE = 0.5  # of the classes, that must have images to choose by


class RuleChoice(NamedTuple):
    """The rule and why, for the log and the record of the run."""

    rule: str
    accuracies: dict[str, float]  # balanced accuracy of each rule, 0..1; {} where none was measured
    reason: str


def choose_rule(
    labels: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    preference: Sequence[str] = PREFERENCE,
) -> RuleChoice:
    """Chooses among rules by their predictions of images the network was not trained on.

    Args:
      labels: int [V].
      predictions: rule -> class ids int [V].
      num_classes: C.
      preference: rules, the one to prefer first.
    """
    known = [rule for rule in preference if rule in predictions]
    classes = len(np.unique(labels))
    if len(labels) < FEWEST_IMAGES or classes < SMALLEST_SHARE * num_classes:
        return RuleChoice(
            known[0],
            {},
            f"{len(labels):,} validation images of {classes:,} of {num_classes:,} classes are too "
            "few to choose by",
        )
    accuracies = {rule: balanced_accuracy(labels, predictions[rule]) for rule in known}
    best = max(known, key=lambda rule: accuracies[rule])
    rule = next(r for r in known if not leads(labels, predictions[best], predictions[r]))
    reason = f"{100 * accuracies[rule]:.1f} % on {len(labels):,} images it was not trained on"
    if rule != best:
        reason += f"; {best} had {100 * accuracies[best]:.1f}, within a standard error"
    return RuleChoice(rule, accuracies, reason)


def leads(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the first balanced accuracy is higher by more than a standard error.

    Args:
      labels: int [V].
      first: class ids int [V].
      second: class ids int [V].
    """
    gain = balanced_accuracy(labels, first) - balanced_accuracy(labels, second)
    # A lead of one image is as long as its error: which of the two is longer is rounding.
    return gain > paired_error(labels, first, second) + _ROUNDING


def paired_error(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Standard error of the difference of two balanced accuracies on the same images, 0..1.

    Only images that one of the two has right and the other wrong tell them apart; each weighs one
    over the images of its class and the number of classes.
    """
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[places] / len(counts)
    differ = (first == labels).astype(np.float64) - (second == labels)
    return float(np.sqrt(np.sum(np.square(weights * differ))))
