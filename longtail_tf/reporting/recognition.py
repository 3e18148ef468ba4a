"""Sections on accuracy: bands by inference rule, and accuracy against class count."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.reporting import charts
from longtail_tf.reporting.counts import band_legend
from longtail_tf.reporting.html import Html, counted, decimal, element, percent, table, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import BAND_WORDS, GROUPS, RunData, interval_of

MOST_DOTS = 1200
GOLDEN_RATIO = 0.618034


def bands_by_rule(run: RunData) -> Section | Missing:
    """Accuracy per band for each inference rule, with intervals."""
    title = "Accuracy by band and rule"
    if not run.rules:
        return Missing(
            title,
            "There is no evaluation.json with accuracies: the training has not finished, or the "
            "data set has neither test nor validation images.",
        )
    panels = [_panel(run, group) for group in GROUPS]
    words = [
        element(
            "p", "Every rule reads the same embeddings; ", element("code", run.default_rule),
            " is the default and set in bold.",
        ),
        element(
            "p", "The bar is the 95 % interval over test images: where two bars overlap much, the "
            "difference may be chance. A band counts each of its classes alike.",
        ),
    ]  # fmt: skip
    return Section("bands", title, words, [element("div", panels, class_="bands"), *_numbers(run)])


def _panel(run: RunData, group: str) -> Html:
    rows = []
    for rule, metrics in run.rules.items():
        value, interval = metrics.get(group), interval_of(metrics, group)
        marks = []
        if interval:
            left, right = (100 * min(1, max(0, side)) for side in interval)
            marks.append(element("i", style=f"left:{left:.2f}%;width:{right - left:.2f}%"))
        if value is not None:
            marks.append(element("u", style=f"left:{100 * value:.2f}%"))
        rows.append(
            element(
                "div",
                element("span", rule),
                element("span", marks, class_="track", aria_hidden="true"),
                element("span", percent(value) or "none", class_="n"),
                class_="rule default" if rule == run.default_rule else "rule",
            )
        )
    scale = element(
        "div", element("span"), element("span", element("span", "0 %"), element("span", "100 %"),
                                        class_="ends"),
        element("span"), class_="rule scale", aria_hidden="true",
    )  # fmt: skip
    heading = element("h3", element("span", BAND_WORDS[group].capitalize(), class_=f"key {group}"))
    return element("div", heading, rows, scale, class_=group)


COLUMNS = (
    ("balanced", "Balanced", percent),
    ("macro_f1", "Macro F1", percent),
    ("top5", "Top 5", percent),
    ("worst_class_recall", "Worst class", percent),
    ("ece", "ECE", lambda value: decimal(value)),
    ("tail_to_head", "Tail → head", percent),
    ("head_to_tail", "Head → tail", percent),
)


def _numbers(run: RunData) -> list[Html]:
    rows = [
        [rule, *(_with_interval(metrics, group) for group in GROUPS)]
        for rule, metrics in run.rules.items()
    ]
    caption = f"The same in numbers: accuracy on the {run.image_words}s, with 95 % intervals"
    tables = [table(["Rule", "All", "Many", "Medium", "Few"], rows, caption=caption)]
    present = [
        column for column in COLUMNS
        if any(metrics.get(column[0]) is not None for metrics in run.rules.values())
    ]  # fmt: skip
    if present:
        rows = [
            [rule, *(write(metrics.get(key)) for key, _, write in present)]
            for rule, metrics in run.rules.items()
        ]
        headers = ["Rule", *(header for _, header, _ in present)]
        tables.append(table(headers, rows, caption="Further measures"))
    return tables


def _with_interval(metrics: dict[str, Any], group: str) -> Any:
    value, interval = percent(metrics.get(group)), interval_of(metrics, group)
    if value is None or interval is None:
        return value
    return [value, element("small", f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}")]


def accuracy_by_count(run: RunData) -> Section | Missing:
    """Recall of each class against its training images."""
    title = "Accuracy against class size"
    if run.per_class is None or run.classes is None or not len(run.per_class.ids):
        return Missing(title, "per_class.csv or classes.csv is missing or empty.")
    ids, recall = run.per_class.ids, run.per_class.recall
    counts = run.classes.train_counts[ids]
    x = charts.log_axis(max(0.8, 0.8 * counts.min()), max(2, counts.max()),
                        title="training images of the class (log scale)")  # fmt: skip
    y = charts.percent_axis("recognised test images of the class")
    shown = np.arange(len(ids))
    if len(ids) > MOST_DOTS:
        shown = np.unique(np.linspace(0, len(ids) - 1, MOST_DOTS).astype(int))
    # Equal counts would lie on one another: spread by a few per cent, the same at every run.
    spread = 1 + 0.09 * (np.modf(shown * GOLDEN_RATIO)[0] - 0.5)
    titles = [
        f"{_shortened(run.classes.names[ids[i]])}\n{counted(int(counts[i]), 'training image')}, "
        f"{percent(recall[i], 0)} of {counted(int(run.per_class.test_images[i]), 'test image')}"
        for i in shown
    ]
    kinds = [run.classes.band(ids[i]) for i in shown]
    marks = charts.dots(x, y, counts[shown] * spread, recall[shown], kinds, titles)
    trend = _trend(counts, recall)
    marks.append(charts.line(x, y, *trend, "all"))
    label = (
        f"Recall of {counted(len(shown), 'class', 'classes')} against training images; the mean "
        f"goes from {percent(trend[1][0], 0)} in the smallest classes to "
        f"{percent(trend[1][-1], 0)} in the largest."
    )
    words = [
        "One dot a class; its name shows when you point at it or tap it. The line is the mean of "
        "classes of similar size. With few test images a class moves in coarse steps."
    ]
    if len(shown) < len(ids):
        words.append(
            f" {whole(len(shown))} of {whole(len(ids))} classes are drawn, evenly by rank; the "
            "line uses all."
        )
    figure = element("figure", band_legend(), charts.plot(x, y, marks, label=label))
    return Section("size", title, "".join(words), [figure])


def _trend(counts: np.ndarray, recall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean recall in up to 12 runs of equally many classes, by count."""
    order = np.argsort(counts, kind="stable")
    means: list[tuple[float, float]] = []
    for part in np.array_split(order, min(12, max(1, len(order) // 4))):
        middle = float(np.exp(np.log(np.maximum(counts[part], 0.5)).mean()))
        means.append((middle, float(np.nanmean(recall[part]))))
    xs, ys = np.array(means).T
    distinct, where = np.unique(xs, return_inverse=True)
    return distinct, np.bincount(where, ys) / np.bincount(where)


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"
