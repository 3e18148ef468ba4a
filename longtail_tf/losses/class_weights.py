"""What the long-tail classification losses derive from the training counts of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.losses.checks import check_number


def checked_counts(class_counts: Any, loss: str) -> np.ndarray:
    """Training images of each class, float64 [H], each at least 1.

    Raises:
      UserError: not a list of positive counts; the sentence names the loss and the first class.
    """
    counts = np.asarray(class_counts if class_counts is not None else [])
    if counts.ndim != 1 or not counts.size or counts.dtype.kind not in "iuf":
        raise UserError(
            f"class_counts of shape {counts.shape} and type {counts.dtype} came to {loss}: give "
            "the number of training images of every class it classifies, one number a class."
        )
    counts = counts.astype(np.float64)
    wrong = np.flatnonzero(~((counts >= 1.0) & np.isfinite(counts)))
    if wrong.size:
        raise UserError(
            f"class {wrong[0]} came with {counts[wrong[0]]:g} training images to {loss}, which "
            "needs at least 1 of every class: leave such classes out of the classifier."
        )
    return counts


def prior_offsets(class_counts: Any, *, tau: float = 1.0) -> np.ndarray:
    """tau * log(share of the training images), float32 [H].

    Added to the logits in training they make the logit-adjusted loss (Menon 2021, equation 10,
    arXiv:2007.07314); tau = 1 is Balanced Softmax (Ren 2020, equation 4, arXiv:2007.10740), up to a
    constant that softmax ignores. Subtracted at test time instead they are the post-hoc form.
    """
    counts = checked_counts(class_counts, "logit_adjusted")
    check_number(tau, "tau", minimum=0.0)
    return (tau * np.log(counts / counts.sum())).astype(np.float32)


def effective_number_weights(class_counts: Any, *, beta: float = 0.9999) -> np.ndarray:
    """Weights (1 - beta) / (1 - beta ** count), scaled to a mean of 1; float32 [H].

    Cui 2019, equation 3 and section 4.1, arXiv:1901.05555. beta = 0 weighs all classes alike, beta
    towards 1 by the inverse count.
    """
    counts = checked_counts(class_counts, "class_balanced")
    if not 0.0 <= check_number(beta, "beta", minimum=0.0) < 1.0:
        raise UserError(f"beta={beta!r} was given: the effective number needs 0 <= beta < 1.")
    # expm1 keeps the digits of 1 - beta ** count where beta is next to 1.
    weights = np.ones_like(counts) if beta == 0 else -1.0 / np.expm1(counts * np.log(beta))
    return (weights / weights.mean()).astype(np.float32)


def deferred_weights(class_counts: Any, *, beta: float = 0.9999) -> np.ndarray:
    """Effective-number weights, scaled to a mean of 1 over the training images; float32 [H].

    Cao 2019 (arXiv:1906.07413), section 3.3. The authors' code divides by the sum of the weights of
    a batch; this divides by what that sum is on average, so that the loss keeps its size, and the
    parts of a batch on several replicas add up to the whole.
    """
    weights = effective_number_weights(class_counts, beta=beta).astype(np.float64)
    share = checked_counts(class_counts, "reweight_from")
    return (weights / np.average(weights, weights=share)).astype(np.float32)


def ldam_margins(class_counts: Any, *, max_margin: float = 0.5) -> np.ndarray:
    """Margins proportional to count ** -1/4, the largest `max_margin`; cosines, float32 [H].

    Cao 2019, equation 13, arXiv:1906.07413; 0.5 is the authors' setting.
    """
    counts = checked_counts(class_counts, "ldam")
    check_number(max_margin, "max_margin", minimum=0.0)
    margins = counts**-0.25
    return (margins * (max_margin / margins.max())).astype(np.float32)
