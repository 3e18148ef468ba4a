"""Section with the training curves of both streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf.reporting import charts
from longtail_tf.reporting.html import Html, counted, element, percent
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import GROUPS, RunData

Series = tuple[str, str, np.ndarray, np.ndarray]  # words, colour, steps, values


def training_section(run: RunData) -> Section | Missing:
    """Small multiples over the steps: losses, accuracy, triplets, rates, validation."""
    title = "Training, step by step"
    if not run.training and not run.validation:
        return Missing(title, "metrics.jsonl is missing or empty.")
    panels = [
        _panel("Classification loss", "head stream", [_logged(run, "head_loss", "mark")]),
        _panel("Metric loss", "whole stream", [_logged(run, "whole_loss", "mark")]),
        _panel("Validation accuracy", f"rule {run.default_rule}", _validation(run), share=True),
        _panel("Accuracy on its batches", "head stream", [_logged(run, "head_accuracy", "mark")],
               share=True),
        _panel("Active triplets", "whole stream", [_logged(run, "active_share", "mark")],
               share=True),
        _panel("Mean distance", "whole stream", [
            _logged(run, "positive_distance", "good-line", "same class"),
            _logged(run, "negative_distance", "bad-line", "other class"),
        ]),
        _panel("Learning rate", "", [_logged(run, "learning_rate", "all")]),
        _panel("Images per second", "", [_logged(run, "images_per_s", "all")]),
    ]  # fmt: skip
    last = max((record["step"] for record in [*run.training, *run.validation]), default=0)
    words = [
        element("p", f"{counted(last, 'step')}. The two streams train the same weights: the head "
                "stream by a classification loss, the whole stream by distances."),
        element("p", "Healthy: both losses fall, the distance within a class stays well below the "
                "distance to other classes, and some triplets stay active."),
    ]  # fmt: skip
    return Section("training", title, words, [element("div", panels, class_="multiples")])


def _logged(run: RunData, key: str, colour: str, words: str = "") -> Series | None:
    found = [(r["step"], r[key]) for r in run.training if isinstance(r.get(key), (int, float))]
    if not found:
        return None
    steps, values = charts.thinned(*zip(*found))
    return (words, colour, steps, values) if len(steps) else None


def _validation(run: RunData) -> list[Series | None]:
    series: list[Series | None] = []
    for group in GROUPS:
        found = [
            (record["step"], record["val"].get(run.default_rule, {}).get(group))
            for record in run.validation
            if isinstance(record["val"].get(run.default_rule), dict)
        ]
        found = [(step, value) for step, value in found if isinstance(value, (int, float))]
        if found:
            series.append((group, group, *charts.thinned(*zip(*found))))
    return series


def _panel(
    heading: str, stream: str, series: Sequence[Series | None], *, share: bool = False
) -> Html | None:
    present = [entry for entry in series if entry is not None]
    if not present:
        return None
    steps = np.concatenate([entry[2] for entry in present])
    values = np.concatenate([entry[3] for entry in present])
    x = charts.linear_axis(0, float(steps.max()), title="steps", text=_steps_text)
    x = charts.Axis(0, float(max(1, steps.max())), _ends(x), "")
    if share:
        y = charts.percent_axis("")
    else:
        low = min(0.0, float(np.quantile(values, 0.01)))
        # A spike at the start must not flatten the rest of the curve.
        high = max(float(np.quantile(values, 0.99)) * 1.05, 1e-12)
        y = charts.linear_axis(low, high, title="")
    marks: list[Any] = []
    for _, colour, xs, ys in present:
        if len(xs) == 1:
            marks += charts.dots(x, y, xs, ys, [colour], [_last(ys, share)])
        marks.append(charts.line(x, y, xs, np.clip(ys, y.low, y.high), colour))
    ends = [
        element("span", f"{words or 'at the end'} {_last(ys, share)}", class_=f"key {colour}")
        for words, colour, _, ys in present
    ]
    label = f"{heading} over the steps; at the end " + ", ".join(
        f"{words} {_last(ys, share)}".strip() for words, _, _, ys in present
    )
    return element(
        "figure", element("h3", heading, element("small", stream or "\N{NO-BREAK SPACE}")),
        charts.plot(x, y, marks, label=label, small=True),
        element("div", ends, class_="legend"),
    )  # fmt: skip


def _ends(axis: charts.Axis) -> tuple[tuple[float, str], ...]:
    """At most three ticks: small multiples have no room for more."""
    ticks = axis.ticks
    return ticks[:: max(1, -(-(len(ticks) - 1) // 2))]


def _last(values: np.ndarray, share: bool) -> str:
    return str(percent(float(values[-1]))) if share else f"{values[-1]:,.3g}"


def _steps_text(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10000 else f"{step:,g}"
