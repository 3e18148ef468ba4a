"""Sections on errors: the most confused pairs and the worst classes, with example images."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.metrics.nearest_neighbours import top_k
from longtail_tf.npz_files import array_names
from longtail_tf.reporting.class_tables import Classes
from longtail_tf.reporting.html import Html, class_name, counted, element, percent, table, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.pictures import Pictures
from longtail_tf.reporting.run_data import Recognised, RunData, read_vectors

MOST_PAIRS = 8
MOST_WORST = 12
NEIGHBOURS = 3
SHOTS = 5


def confused_pairs(run: RunData, pictures: Pictures | None, no_pictures: str) -> Section | Missing:
    """The pairs of classes that are most often taken for one another.

    Args:
      pictures: the test images, None where the data set is not at hand.
      no_pictures: why it is not, in a sentence.
    """
    title = "What is confused with what"
    if run.recognised is None or run.classes is None:
        return Missing(title, "embeddings.npz or classes.csv is missing, so single test images are "
                       "not known.")  # fmt: skip
    pairs = most_confused(run.recognised, len(run.classes.names))
    if not pairs:
        return Section("confused", title, "No test image was given another class's name.", [])
    blocks = [_pair(run.classes, run.recognised, pictures, *pair) for pair in pairs]
    words = [element("p", f"The {counted(len(pairs), 'pair')} of classes with the most mistakes, "
                     "both ways together: on the left the true class, on the right the name it "
                     "was given.")]  # fmt: skip
    if pictures is None:
        words.append(element("p", no_pictures))
    else:
        words.append(
            element("p", "Left: test images that were mistaken. Right: images that really are of "
                    "that class.")
        )  # fmt: skip
    return Section("confused", title, words, [element("div", blocks)])


def most_confused(recognised: Recognised, num_classes: int) -> list[tuple[int, int]]:
    """The pairs of classes with the most mistakes, both ways together, the worst first.

    Returns:
      (true class, given class) of each pair, in the direction that is more frequent.
    """
    wrong = (recognised.labels != recognised.predictions) & (recognised.predictions >= 0)
    true, given = recognised.labels[wrong], recognised.predictions[wrong]
    pairs = np.minimum(true, given) * num_classes + np.maximum(true, given)
    found, where, images = np.unique(pairs, return_inverse=True, return_counts=True)
    falling = np.bincount(where, weights=true > given, minlength=len(found))
    worst = []
    for at in np.argsort(-images, kind="stable")[:MOST_PAIRS]:
        low, high = int(found[at] // num_classes), int(found[at] % num_classes)
        worst.append((high, low) if 2 * falling[at] > images[at] else (low, high))
    return worst


def _pair(
    classes: Classes, recognised: Recognised, pictures: Pictures | None, true: int, given: int
) -> Html:
    of_true, of_given = recognised.labels == true, recognised.labels == given
    mistaken = of_true & (recognised.predictions == given)
    back = of_given & (recognised.predictions == true)
    sides: list[Any] = [None, None]
    if pictures:
        rows = recognised.rows[mistaken][:SHOTS]
        alt = f"{classes.names[true]}, taken for {classes.names[given]}"
        sides[0] = pictures.shots(rows, [alt] * len(rows))
        real = np.flatnonzero(of_given)
        # Rightly named ones first: they show what the name means to the model.
        right_first = np.argsort(recognised.predictions[real] != given, kind="stable")
        rows = recognised.rows[real[right_first]][:SHOTS]
        sides[1] = pictures.shots(rows, [f"{classes.names[given]}, example"] * len(rows))
    count = (
        f"{whole(mistaken.sum())} of {counted(int(of_true.sum()), 'test image')} "
        f"({percent(float(mistaken.sum() / of_true.sum()), 0)})"
    )
    if back.any():
        count += f"; the other way {whole(back.sum())} of {whole(of_given.sum())}"
    return element(
        "div",
        element("div", count, class_="count"),
        element("div", element("h3", _named(classes, true)), _size(classes, true), sides[0]),
        element("div", "→", class_="arrow", role="img", aria_label="was taken for"),
        element("div", element("h3", _named(classes, given)), _size(classes, given), sides[1]),
        class_="pair",
    )


def worst_classes(run: RunData, pictures: Pictures | None, no_pictures: str) -> Section | Missing:
    """The classes with the lowest recall, and the prototypes nearest to theirs."""
    title = "The weakest classes"
    if run.per_class is None or run.classes is None or not len(run.per_class.ids):
        return Missing(title, "per_class.csv or classes.csv is missing or empty.")
    order = np.lexsort((-run.per_class.test_images, np.nan_to_num(run.per_class.recall, nan=2)))
    worst = order[:MOST_WORST]
    ids = run.per_class.ids[worst]
    neighbours = nearest_prototypes(run, ids)
    headers = ["Class", "Recall", "Most often taken for"]
    if neighbours:
        headers.append("Nearest prototypes (cosine)")
    rows = []
    for at, class_id in zip(worst, ids):
        images = counted(int(run.per_class.test_images[at]), "test image")
        confused = run.per_class.most_confused_with[at]
        row: list[Any] = [
            _example(run.classes, run.recognised, pictures, int(class_id)),
            [percent(float(run.per_class.recall[at]), 0), element("small", f"of {images}")],
            class_name(confused) if confused else None,
        ]
        if neighbours:
            row.append(_near(run.classes, neighbours[int(class_id)]))
        rows.append(row)
    words = [element("p", "The lowest recall first; among equals, those with more test images, "
                     "where the number is firmer.")]  # fmt: skip
    if neighbours:
        words.append(
            element("p", "A prototype is the mean direction of a class's training images. A "
                    "neighbour near 1 means that the model hardly tells the two apart: look for "
                    "mislabelled images, or merge the classes.")
        )  # fmt: skip
    if pictures is None:
        words.append(element("p", no_pictures))
    caption = "Classes with the lowest recall"
    body = table(headers, rows, caption=caption, text_columns=len(headers), kind="wide")
    return Section("weakest", title, words, [body])


def nearest_prototypes(run: RunData, ids: np.ndarray) -> dict[int, list[tuple[int, float]]]:
    """For each class its nearest other classes as (class id, cosine), nearest first.

    Empty where the run has no prototype of each class.
    """
    path, classes = run.folder.prototypes, run.classes
    if classes is None or not path.exists() or "prototypes" not in array_names(path):
        return {}
    prototypes = read_vectors(path, "prototypes")
    if len(prototypes) != len(classes.names):  # several a class, in a run of an older version
        return {}
    cosines = prototypes[ids] @ prototypes.T
    cosines[np.arange(len(ids)), ids] = -np.inf
    nearest = top_k(cosines, min(NEIGHBOURS, len(prototypes) - 1))
    return {
        int(class_id): [(int(other), float(row[other])) for other in others]
        for class_id, row, others in zip(ids, cosines, nearest)
    }


def _near(classes: Classes, neighbours: list[tuple[int, float]]) -> list:
    return [
        element("div", element("span", class_name(classes.names[other]),
                               class_=f"key {classes.band(other)}"),
                element("span", f" {cosine:.2f}", class_="soft"))
        for other, cosine in neighbours
    ]  # fmt: skip


def _example(
    classes: Classes, recognised: Recognised | None, pictures: Pictures | None, class_id: int
) -> Html:
    shot = None
    if pictures and recognised is not None:
        rows = recognised.rows[recognised.labels == class_id][:1]
        shot = pictures.shots(rows, [f"{classes.names[class_id]}, a test image"])
    words = element("div", _named(classes, class_id), _size(classes, class_id))
    return element("div", shot, words, class_="near")


def _named(classes: Classes, class_id: int) -> Html:
    name = class_name(classes.names[class_id])
    return element("span", name, class_=f"key {classes.band(class_id)}")


def _size(classes: Classes, class_id: int) -> Html:
    return element("small", counted(int(classes.train_counts[class_id]), "training image"))
