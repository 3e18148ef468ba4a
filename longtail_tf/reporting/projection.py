"""A map of embeddings in two dimensions, in NumPy: PCA, refined by a small exact t-SNE.

van der Maaten 2008, "Visualizing Data using t-SNE" (JMLR 9), started from PCA as Kobak 2019
("The art of using t-SNE", Nature Communications 10:5416) advises: the start keeps
the large-scale layout, and no random number is drawn, so the map of a run never changes.
"""

from __future__ import annotations

import numpy as np

PERPLEXITY = 20.0
STEPS = 250
EXAGGERATED_STEPS = 80
EXAGGERATION = 8.0
TSNE_FROM = 12  # points; below, PCA alone says it


def pca(vectors: np.ndarray, num_components: int) -> np.ndarray:
    """Principal components.

    Args:
      vectors: float [N, D].
      num_components: how many; fewer come where N or D is smaller.

    Returns:
      float64 [N, num_components], the largest first; the sign of each is fixed by its largest
      entry, so that it does not depend on the machine.
    """
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    scores = centred @ axes[:, np.argsort(-values)[:num_components]]
    signs = np.sign(np.take_along_axis(scores, np.abs(scores).argmax(axis=0)[None], axis=0))
    return scores * np.where(signs == 0, 1, signs)


def embedding_map(embeddings: np.ndarray) -> np.ndarray:
    """Positions of embeddings on a map where near neighbours stay near.

    O(N^2) time and memory: keep N to about a thousand.

    Args:
      embeddings: float [N, D].

    Returns:
      float64 [N, 2], each column within 0..1 with one scale for both.
    """
    points = pca(embeddings, 30)
    flat = points[:, :2]
    if flat.shape[1] < 2:
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    if len(points) >= TSNE_FROM:
        flat = _tsne(points, flat)
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = max(float((high - low).max()), 1e-12)
    return (flat - (low + high) / 2) / scale + 0.5


def _tsne(points: np.ndarray, start: np.ndarray) -> np.ndarray:
    affinities = _affinities(points).astype(np.float32)
    at = (start / max(float(start[:, 0].std()), 1e-12) * 1e-2).astype(np.float32)
    velocity, gains = np.zeros_like(at), np.ones_like(at)
    # The learning rate of Belkina 2019 (Nature Communications 10:5415).
    rate = max(len(points) / EXAGGERATION / 4, 50.0)
    for step in range(STEPS):
        exaggerated = step < EXAGGERATED_STEPS
        closeness = 1 / (1 + _squared_distances(at))
        np.fill_diagonal(closeness, 0)
        pull = affinities * np.float32(EXAGGERATION if exaggerated else 1)
        pull = (pull - closeness / closeness.sum()) * closeness
        gradient = 4 * (pull.sum(axis=1, keepdims=True) * at - pull @ at)
        same = np.sign(gradient) == np.sign(velocity)
        gains = np.maximum(np.where(same, gains * 0.8, gains + 0.2), 0.01)
        velocity = (0.5 if exaggerated else 0.8) * velocity - rate * gains * gradient
        at = at + velocity.astype(np.float32)
    return (at - at.mean(axis=0)).astype(np.float64)


def _affinities(points: np.ndarray) -> np.ndarray:
    """Symmetric neighbour probabilities [N, N] of the asked perplexity, found by bisection."""
    num_points = len(points)
    squared = _squared_distances(points)
    squared /= max(float(np.mean(squared)), 1e-12)
    np.fill_diagonal(squared, np.inf)
    wanted = np.log(min(PERPLEXITY, (num_points - 1) / 3))
    nearest = squared.min(axis=1, keepdims=True)
    low, high = np.full((num_points, 1), 1e-3), np.full((num_points, 1), 1e5)
    off_diagonal = np.where(np.isfinite(squared), squared - nearest, 0)
    for _ in range(24):
        precision = np.sqrt(low * high)
        weights = np.exp(-precision * (squared - nearest))
        total = weights.sum(axis=1, keepdims=True)
        mean = (weights * off_diagonal).sum(axis=1, keepdims=True) / total
        entropy = np.log(total) + precision * mean
        too_wide = entropy > wanted
        low, high = np.where(too_wide, precision, low), np.where(too_wide, high, precision)
    conditional = weights / total
    return (conditional + conditional.T) / (2 * num_points)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    norms = (points**2).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None] - 2 * points @ points.T, 0)
