"""Section with the map of test embeddings, coloured by band."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.reporting import charts, npz
from longtail_tf.reporting.class_tables import Classes
from longtail_tf.reporting.counts import band_legend
from longtail_tf.reporting.html import LONGEST_NAME, Html, counted, element, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import Recognised, RunData

MOST_POINTS = 750
MOST_PER_CLASS = 8
EDGE = 0.03  # of a side, kept free


def embedding_section(run: RunData) -> Section | Missing:
    """The embedding map."""
    title = "Map of the embeddings"
    recognised, classes = run.recognised, run.classes
    if recognised is None or classes is None or not len(recognised.labels):
        return Missing(title, "embeddings.npz or classes.csv is missing.")
    shown = chosen_images(recognised.labels, classes.bands)
    positions = embedding_map(npz.rows_of(run.folder.embeddings, "embeddings", shown))
    images = len(np.unique(recognised.labels[shown]))
    words = [
        element(
            "p", f"{whole(len(shown))} of {counted(len(recognised.labels), 'test image')}, of "
            f"{counted(images, 'class', 'classes')} taken evenly from the three bands. Images that "
            "the network sees as alike lie close together; distances across the map mean little.",
        ),
        element("p", "Full dots are named right, rings are not. Point at one or tap it for its "
                "class. (PCA, then t-SNE.)"),
    ]  # fmt: skip
    body = element("figure", band_legend(), _chart(recognised, classes, shown, positions))
    return Section("map", title, words, [body])


def chosen_images(labels: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Rows of at most MOST_POINTS images: whole classes, spread over each band by rank.

    Args:
      labels: int [N] class ids.
      bands: int [C], positions in BANDS.

    Returns:
      int64 [M], rising.
    """
    order = np.argsort(labels, kind="stable")
    present, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    taken = np.minimum(sizes, MOST_PER_CLASS)
    in_bands = [np.flatnonzero(bands[present] == band) for band in range(len(BANDS))]
    in_bands = [members for members in in_bands if len(members)]
    rows = []
    left = MOST_POINTS
    # Small bands first: what they leave unused goes to the larger ones.
    for number, members in enumerate(sorted(in_bands, key=lambda m: int(taken[m].sum()))):
        room = left // (len(in_bands) - number)
        wanted = len(members)
        if taken[members].sum() > room:
            wanted = max(1, int(room / taken[members].mean()))
        picked = members[np.unique(np.linspace(0, len(members) - 1, wanted).astype(int))]
        part = [order[starts[i] : starts[i] + taken[i]] for i in picked]
        rows.append(np.concatenate(part)[:room])
        left -= len(rows[-1])
    return np.sort(np.concatenate(rows)).astype(np.int64)


def _chart(
    recognised: Recognised, classes: Classes, shown: np.ndarray, positions: np.ndarray
) -> Html:
    # The cloud is turned so that its longer side lies across; its axes mean nothing by themselves,
    # so each fills the frame.
    if np.ptp(positions[:, 1]) > np.ptp(positions[:, 0]):
        positions = positions[:, ::-1]
    spans = np.maximum(np.ptp(positions, axis=0), 1e-9)
    placed = ((positions - 0.5) / spans * (1 - 2 * EDGE) + 0.5) * charts.SIDE
    marks: list[Any] = []
    for row, (across, down) in zip(shown, placed):
        true, given = int(recognised.labels[row]), int(recognised.predictions[row])
        text = classes.names[true][:LONGEST_NAME]
        if given != true:
            text += "\nnamed " + (classes.names[given][:LONGEST_NAME] if given >= 0 else "unknown")
        at = f"M{across:.0f} {down:.0f}h0"
        marks.append(
            element("path", element("title", text), d=at, class_=f"dot {classes.band(true)}")
        )
        if given != true:
            marks.append(element("path", d=at, class_="hole"))
    label = f"Map of {len(shown)} test images by their embeddings, coloured by band."
    return charts.bare_plot(marks, label=label, kind="map")


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
