"""A linear classifier over all classes, refitted on frozen embeddings.

Decoupling (Kang 2020, arXiv:1910.09217, section 4.1) found that a good representation deserves a
classifier fitted afterwards and in balance. Balance comes from the logit-adjusted loss (Menon 2021,
arXiv:2007.07314, section 4.2): log class frequency is added to the logits during the fit and left
out afterwards. The fit starts from the class prototypes and is pulled back to them, so that a class
of one image stays near its image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from longtail_tf.metrics import balanced_accuracy

BATCH_SIZE = 512  # at most; small sets use less, so that a pass has steps to learn from
LEARNING_RATE = 0.05
PULL = 1e-4  # strength of the pull to the prototypes, on the mean loss
MAX_CELLS = 200_000_000  # images x classes an epoch: beyond that the fit takes minutes


class LinearFit(NamedTuple):
    """The fitted classifier: scores are embeddings @ kernel + bias."""

    kernel: np.ndarray  # float32 [D, C]
    bias: np.ndarray  # float32 [C]
    epochs: int  # passes after which validation was best; 0 is the prototypes themselves
    val_balanced_accuracy: float | None


def fit_linear(
    embeddings: np.ndarray,
    labels: np.ndarray,
    prototypes: np.ndarray,
    *,
    scale: float,
    seed: int,
    val_embeddings: np.ndarray | None = None,
    val_labels: np.ndarray | None = None,
    max_epochs: int = 40,
    patience: int = 8,
) -> LinearFit:
    """Fits the classifier by Adam; the same inputs give the same bits on the same machine.

    Args:
      embeddings: float32 [N, D], unit norm.
      labels: int [N].
      prototypes: float32 [C, D], one a class: start and anchor.
      scale: sharpness of the start: logits are scale x cosine.
      seed: of the order of images.
      val_embeddings: float32 [V, D]; the pass with the best balanced accuracy here is kept, the
        prototypes' own start included. None: all of `max_epochs` / 4 passes, the last one kept.
      val_labels: int [V].
      max_epochs: passes over the training images at most; the step size falls to 0 over them.
      patience: passes without a better validation result before the fit stops.

    Returns:
      A LinearFit.
    """
    num_classes = len(prototypes)
    log_prior = np.log(np.bincount(labels, minlength=num_classes) / len(labels))
    log_prior = np.maximum(log_prior, -50.0).astype(np.float32)
    start = (np.float32(scale) * prototypes.T).astype(np.float32)
    start = np.concatenate([start, np.zeros((1, num_classes), np.float32)])  # last row: bias
    weights, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    val = None
    if val_embeddings is not None and val_labels is not None and len(val_labels):
        val = (val_embeddings, val_labels)
    epochs = max_epochs if val else max(1, max_epochs // 4)
    batch = int(np.clip(len(labels) // 16, 32, BATCH_SIZE))
    steps = math.ceil(len(labels) / batch)
    rng = np.random.default_rng(seed)
    best = _accuracy(weights, *val) if val else None
    kept, kept_epoch = weights.copy(), 0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(labels))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            gradient = softmax_gradient(weights, embeddings[rows], labels[rows], log_prior)
            gradient += np.float32(PULL) * (weights - start)
            count = (epoch - 1) * steps + step
            rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * count / (epochs * steps)))
            adam_step(weights, gradient, first, second, rate, count + 1)
        if val is None or best is None:
            kept, kept_epoch = weights, epoch
            continue
        now = _accuracy(weights, *val)
        if now > best:
            best, kept, kept_epoch = now, weights.copy(), epoch
        elif epoch - kept_epoch >= patience:
            break
    return LinearFit(kept[:-1].copy(), kept[-1].copy(), kept_epoch, best)


def softmax_gradient(
    weights: np.ndarray, embeddings: np.ndarray, labels: np.ndarray, log_prior: np.ndarray
) -> np.ndarray:
    """Gradient of the mean logit-adjusted cross entropy, [D + 1, C]."""
    share = embeddings @ weights[:-1]
    share += weights[-1] + log_prior
    share -= share.max(axis=1, keepdims=True)
    np.exp(share, out=share)
    share /= share.sum(axis=1, keepdims=True)
    share[np.arange(len(labels)), labels] -= 1.0
    share /= np.float32(len(labels))
    return np.concatenate([embeddings.T @ share, share.sum(axis=0, keepdims=True)])


def adam_step(
    weights: np.ndarray,
    gradient: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    rate: float,
    count: int,
) -> None:
    """One Adam step in place (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1)."""
    first *= np.float32(0.9)
    first += np.float32(0.1) * gradient
    second *= np.float32(0.999)
    second += np.float32(0.001) * gradient * gradient
    size = rate * math.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    weights -= np.float32(size) * first / (np.sqrt(second) + np.float32(1e-8))


def _accuracy(weights: np.ndarray, embeddings: np.ndarray, labels: np.ndarray) -> float:
    predictions = (embeddings @ weights[:-1] + weights[-1]).argmax(axis=1)
    return balanced_accuracy(labels, predictions)
