"""Section with the map of test embeddings, coloured by band."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.reporting import charts
from longtail_tf.reporting.class_tables import Classes
from longtail_tf.reporting.counts import band_legend
from longtail_tf.reporting.html import LONGEST_NAME, Html, counted, element, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import Recognised, RunData, read_vectors

MOST_POINTS = 750
MOST_PER_CLASS = 8
EDGE = 0.03  # of a side, kept free
PERPLEXITY = 20.0
TSNE_STEPS = 400  # as good as scikit-learn's 1000 for so few points
TSNE_FROM = 12  # points; below, PCA alone says it


def embedding_section(run: RunData) -> Section | Missing:
    """The embedding map."""
    title = "Map of the embeddings"
    recognised, classes = run.recognised, run.classes
    if recognised is None or classes is None or not len(recognised.labels):
        return Missing(title, "embeddings.npz or classes.csv is missing.")
    shown = chosen_images(recognised.labels, classes.bands)
    embeddings = read_vectors(run.folder.embeddings, "embeddings", num_rows=len(recognised.labels))
    positions = embedding_map(embeddings[shown])
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


def embedding_map(embeddings: np.ndarray) -> np.ndarray:
    """Positions of embeddings on a map where near neighbours stay near (PCA, then t-SNE).

    About a second of CPU for 750 points.

    Args:
      embeddings: float [N, D].

    Returns:
      float64 [N, 2], each column within 0..1 with one scale for both.
    """
    from sklearn.decomposition import PCA

    points = np.asarray(embeddings, np.float64)
    flat = np.zeros((len(points), 2))
    if np.ptp(points, axis=0).any():
        components = PCA(min(30, *points.shape), svd_solver="full").fit_transform(points)
        flat[:, : components.shape[1]] = components[:, :2]
        if len(points) >= TSNE_FROM:
            flat = _tsne(components, flat)
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = max(float((high - low).max()), 1e-12)
    return (flat - (low + high) / 2) / scale + 0.5


def _tsne(points: np.ndarray, start: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
        # A small start, as the first steps must be free to move each point (scikit-learn's scale).
        init=(start / start[:, 0].std() * 1e-4).astype(np.float32),
        max_iter=TSNE_STEPS,
        random_state=0,
    )
    # Threads that share busy cores wait for each other: 20 times the CPU time of one thread.
    with threadpool_limits(1):
        return tsne.fit_transform(points).astype(np.float64)
