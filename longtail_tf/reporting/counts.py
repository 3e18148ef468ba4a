"""Section on the data: training images by class rank, the head cut, the bands."""

from __future__ import annotations

import numpy as np

from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.reporting import charts
from longtail_tf.reporting.class_tables import Classes
from longtail_tf.reporting.html import Html, counted, element, percent, table, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import BAND_WORDS, RunData

CURVE_POINTS = 300
LINEAR_RANK_UP_TO = 500


def band_legend() -> Html:
    """The key of the band colours."""
    keys = [element("span", BAND_WORDS[band], class_=f"key {band}") for band in BANDS]
    return element("div", keys, class_="legend")


def count_curve(run: RunData) -> Section | Missing:
    """Training images by class rank, with the head cut."""
    title = "The data: a long tail"
    classes = run.classes
    if classes is None or not len(classes.names):
        return Missing(title, "classes.csv is missing, so the counts per class are not known.")
    counts = classes.train_counts
    num_classes, head = len(counts), int(classes.is_head.sum())
    if num_classes <= LINEAR_RANK_UP_TO:
        x = charts.linear_axis(0, num_classes, title="class rank, by training images")
        ranks = tuple(
            (at, f"{at:,.0f}") for at, _ in x.ticks if at <= num_classes and float(at).is_integer()
        )
        x = charts.Axis(0, num_classes, ranks, x.title)
        edges, shift = np.arange(num_classes + 1), 0
    else:
        x = charts.log_axis(1, num_classes, title="class rank, by training images (log scale)")
        # Ranks start at 1 where 0 has no place on the axis.
        edges, shift = np.unique(np.geomspace(1, num_classes + 1, CURVE_POINTS).astype(int)) - 1, 1
    y = charts.log_axis(0.7, max(2, counts.max()), title="training images (log scale)")
    marks = []
    for band, name in enumerate(BANDS):
        members = np.flatnonzero(classes.bands == band)
        if not len(members):
            continue
        # Steps: each class is as wide as its rank, so that single classes stay visible.
        left = np.unique(np.clip(edges, members[0], members[-1] + 1))
        left, right = (left[:-1], left[1:]) if len(left) > 1 else (members[:1], members[:1] + 1)
        xs = np.stack([left, right], axis=1).ravel() + shift
        ys = np.repeat(np.maximum(counts[left], y.low), 2)
        marks += [
            charts.area(x, y, xs, np.full(len(xs), y.low), ys, name),
            charts.line(x, y, xs, ys, name),
        ]
    notes = []
    if 0 < head < num_classes:
        words = f"head set: {counted(head, 'class', 'classes')}"
        marks.append(charts.upright(x, head + shift, "all dash"))
        notes.append(charts.note(x, head + shift, 3, words))
    label = (
        f"Training images of each class, largest class first: from {whole(counts.max())} down to "
        f"{whole(counts.min())}; the {whole(head)} largest classes are the head set."
    )
    return Section(
        "data", title, _count_words(run, classes, head),
        [
            element("figure", band_legend(), charts.plot(x, y, marks, label=label, notes=notes)),
            _band_table(classes),
        ],
    )  # fmt: skip


def _count_words(run: RunData, classes: Classes, head: int) -> list:
    counts = classes.train_counts
    words = [element("p", "Each class takes its place by its number of training images.")]
    if 0 < head < len(counts):
        share = counts[classes.is_head].sum() / max(1, counts.sum())
        inside, outside = counts[classes.is_head].min(), counts[~classes.is_head].max()
        words.append(
            element(
                "p", "The head set holds ", element("strong", percent(share)),
                " of the images. Its smallest class has ", element("strong", whole(inside)),
                ", the largest class outside it ", element("strong", whole(outside)), ".",
            )
        )  # fmt: skip
    elif head:
        words.append(element("p", "Every class is in the head set of this run."))
    rule = run.head_set.get("rule")
    if isinstance(rule, str):
        words.append(element("p", "Rule of the head set: ", element("code", rule)))
    return words


def _band_table(classes: Classes) -> Html:
    rows = []
    total = max(1, int(classes.train_counts.sum()))
    for band, name in enumerate(BANDS):
        counts = classes.train_counts[classes.bands == band]
        in_head = int((classes.is_head & (classes.bands == band)).sum())
        word, _, limits = BAND_WORDS[name].partition(" ")
        label = [element("span", word, class_=f"key {name}"), element("small", limits.strip("()"))]
        share = percent(counts.sum() / total)
        rows.append([label, whole(len(counts)), whole(in_head), whole(counts.sum()), share])
    headers = ["Band", "Classes", "in head set", "Training images", "Share"]
    return table(headers, rows, caption="Classes and training images in each band")
