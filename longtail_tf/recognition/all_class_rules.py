"""Rules that correct a trained classifier of every class, all from the one embedding pass.

- head_adjusted: the logarithm of the training shares taken off its logits (Menon 2021,
  arXiv:2007.07314, section 4.1).
- tau_norm: its class vectors divided by a power of their length (Kang 2020, arXiv:1910.09217,
  section 4.3).
- lws: its logits scaled class by class, the scales learned on class-balanced batches (section 4.4).
- crt: a new classifier, from random weights, learned on class-balanced batches (section 4.2; there
  on the network's features, here on unit embeddings, as every rule of ours).

They need a head of every class: a head classifier has nothing to say about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longtail_tf.metrics import balanced_accuracy
from longtail_tf.recognition.embedded import Embedded
from longtail_tf.recognition.linear_refit import MAX_CELLS, adam_step, softmax_gradient
from longtail_tf.sampling import BalancedSampler

TAUS = tuple(round(0.1 * step, 1) for step in range(21))
DEFAULT_TAU = 1.0  # of both papers, where there is no validation set to choose it on
PASSES = 10  # over the training images (Kang 2020, section 5.1: 10 epochs) ...
LEAST_STEPS = 300  # ... but of a small set more
CRT_RATE, LWS_RATE = 0.05, 0.02  # peak step sizes of Adam; half a cosine down to 0
CRT_DECAY = 5e-4


def fit_all_class_rules(
    train: Embedded,
    val: Embedded | None,
    *,
    class_counts: np.ndarray,
    head_norms: np.ndarray | None,
    prior_corrected: str,
    seed: int,
    rules: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fits the wanted rules; returns fields of `Recognizer`.

    Args:
      train: with head logits of every class.
      val: tau is chosen on it; None: tau = 1.
      class_counts: int [C], training images.
      head_norms: float [C], lengths of the classifier's class vectors; None where they have none
        of their own (a cosine classifier): no tau_norm.
      prior_corrected: by what the classifier is already corrected for the training shares, in
        words: no head_adjusted, as that would do it twice; "": by nothing.
      seed: of the balanced batches and of crt's start.
      rules: those to fit.
      say: receives a line for what was chosen or left out.
    """
    fields: dict[str, Any] = {}
    logits = train.head_logits
    if logits is None:
        return fields
    if "head_adjusted" in rules and prior_corrected:
        say(f"head_adjusted: left out, {prior_corrected} corrects for the counts already")
    elif "head_adjusted" in rules:
        offsets = -np.log(class_counts / class_counts.sum())
        tau = _chosen_tau(val, lambda raw, tau: raw + tau * offsets)
        fields["adjusted_offsets"] = (tau * offsets).astype(np.float32)
        say(f"head_adjusted: tau {tau:g}")
    if "tau_norm" in rules and head_norms is None:
        say("tau_norm: left out, a cosine classifier's class vectors all have length 1")
    elif "tau_norm" in rules:
        norms = np.maximum(np.asarray(head_norms), 1e-6)  # a class never seen may have none
        tau = _chosen_tau(val, lambda raw, tau: raw * norms**-tau)
        fields["tau_norm_scales"] = (norms**-tau).astype(np.float32)
        say(f"tau_norm: tau {tau:g}")
    too_large = logits.size > MAX_CELLS
    if too_large and {"lws", "crt"} & set(rules):
        say(f"lws, crt: not fitted, {len(logits)} images x {logits.shape[1]} classes take minutes")
        return fields
    if "lws" in rules:
        fields["lws_scales"] = fit_lws(logits, train.labels, seed=seed)
    if "crt" in rules:
        kernel, bias = fit_crt(train.embeddings, train.labels, len(class_counts), seed=seed)
        fields.update(crt_kernel=kernel, crt_bias=bias)
    return fields


def choose_tau(
    logits: np.ndarray, labels: np.ndarray, corrected: Callable[[np.ndarray, float], np.ndarray]
) -> float:
    """Returns the tau of `TAUS` with the best balanced accuracy; among equals the nearest to 1.

    Args:
      logits: float32 [V, C] of validation images.
      labels: int [V].
      corrected: (logits, tau) -> scores [V, C].
    """
    taus = sorted(TAUS, key=lambda tau: abs(tau - DEFAULT_TAU))
    found = [balanced_accuracy(labels, corrected(logits, tau).argmax(axis=1)) for tau in taus]
    return taus[int(np.argmax(found))]


def fit_lws(logits: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns a factor of each class's logit, float32 [C], learned by cross entropy, from 1 on.

    Args:
      logits: float32 [N, C] of the training images.
      labels: int [N].
      seed: of the class-balanced batches.
    """
    scales = np.ones((1, logits.shape[1]), np.float32)
    first, second = np.zeros_like(scales), np.zeros_like(scales)
    batches, steps = _balanced_batches(labels, seed)
    for step, rows in enumerate(batches):
        raw = logits[rows]
        share = raw * scales
        share -= share.max(axis=1, keepdims=True)
        np.exp(share, out=share)
        share /= share.sum(axis=1, keepdims=True)
        share[np.arange(len(rows)), labels[rows]] -= 1.0
        gradient = (share * raw).mean(axis=0, keepdims=True)
        adam_step(scales, gradient, first, second, _rate(LWS_RATE, step, steps), step + 1)
    return scales[0]


def fit_crt(
    embeddings: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a new classifier's kernel float32 [D, C] and bias [C], by cross entropy.

    Args:
      embeddings: float32 [N, D], unit norm.
      labels: int [N].
      num_classes: C.
      seed: of the start and of the class-balanced batches.
    """
    dimension = embeddings.shape[1]
    weights = np.zeros((dimension + 1, num_classes), np.float32)  # the last row is the bias
    rng = np.random.default_rng(seed)
    weights[:-1] = rng.normal(0, 1 / math.sqrt(dimension), (dimension, num_classes))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    even = np.zeros(num_classes, np.float32)
    batches, steps = _balanced_batches(labels, seed)
    for step, rows in enumerate(batches):
        gradient = softmax_gradient(weights, embeddings[rows], labels[rows], even)
        rate = _rate(CRT_RATE, step, steps)
        weights[:-1] *= np.float32(1 - rate * CRT_DECAY)
        adam_step(weights, gradient, first, second, rate, step + 1)
    return weights[:-1].copy(), weights[-1].copy()


def _chosen_tau(
    val: Embedded | None, corrected: Callable[[np.ndarray, float], np.ndarray]
) -> float:
    if val is None or val.head_logits is None:
        return DEFAULT_TAU
    return choose_tau(val.head_logits, val.labels, corrected)


def _balanced_batches(labels: np.ndarray, seed: int) -> tuple[Any, int]:
    """Rows of class-balanced batches, and how many batches."""
    size = int(np.clip(len(labels) // 16, 32, 512))
    steps = max(LEAST_STEPS, PASSES * math.ceil(len(labels) / size))
    sampler = BalancedSampler(np.arange(len(labels)), labels, batch_size=size, seed=seed)
    return (sampler.batch(step) for step in range(steps)), steps


def _rate(peak: float, step: int, steps: int) -> float:
    return peak * 0.5 * (1 + math.cos(math.pi * step / steps))
