"""Section on confidence: the reliability diagram."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.metrics.calibration import NUM_BINS, reliability_bins
from longtail_tf.reporting import charts
from longtail_tf.reporting.html import counted, decimal, element, percent
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import RunData

SMALL_BIN = 20  # images; fewer make a bin's accuracy mostly noise


def calibration_section(run: RunData) -> Section | Missing:
    """How often the default rule is right at each stated confidence."""
    title = "Can its confidence be trusted?"
    if run.recognised is None or run.recognised.confidences is None:
        return Missing(title, "embeddings.npz holds no confidences.")
    confidences = np.clip(run.recognised.confidences, 0, 1)
    known = np.isfinite(confidences)
    if not known.any():
        return Missing(title, "embeddings.npz holds no finite confidences.")
    correct = (run.recognised.labels == run.recognised.predictions)[known]
    bins = reliability_bins(confidences[known], correct)
    full = bins["images"] > 0
    x = charts.percent_axis("stated confidence")
    y = charts.percent_axis("named right")
    mean, accuracy, images = bins["confidence"][full], bins["accuracy"][full], bins["images"][full]
    titles = [
        f"{percent(c, 0)} confident, {percent(a, 0)} right\n{counted(int(n), 'test image')}"
        for c, a, n in zip(mean, accuracy, images)
    ]
    sizes = ["mark" if n < SMALL_BIN else "mark big" for n in images]
    marks: list[Any] = [
        charts.line(x, y, [0, 1], [0, 1], "all dash thin"),
        charts.line(x, y, mean, accuracy, "mark"),
    ]
    marks += charts.dots(x, y, mean, accuracy, sizes, titles)
    gap = float(np.average(mean - accuracy, weights=images))
    label = (
        f"Share named right against stated confidence in {NUM_BINS} bins; stated confidence is "
        f"{abs(100 * gap):.1f} points too {'high' if gap > 0 else 'low'} over all images."
    )
    share = charts.linear_axis(0, float(images.max() / images.sum()), title="share of images",
                               text=lambda value: f"{100 * value:g} %")  # fmt: skip
    below = charts.plot(
        charts.percent_axis("stated confidence"), share,
        charts.bars(x, share, bins["low"] + 0.004, bins["high"] - 0.004,
                    bins["images"] / images.sum(), "mark"),
        label="How many test images there are at each stated confidence.", small=True,
    )  # fmt: skip
    error = run.rules.get(run.default_rule, {}).get("ece")
    words = [
        element("p", "On the dashed line the model is right exactly as often as it says. Below it "
                "the model is too sure, above it too modest."),
        element("p", "On average it is ", element("strong", f"{abs(100 * gap):.1f} points too "
                f"{'sure' if gap > 0 else 'modest'}"), "."),
    ]  # fmt: skip
    if error is not None:
        shown = element("strong", decimal(error))
        words.append(element("p", f"ECE in {NUM_BINS} bins: ", shown, "."))
    words.append(element("p", f"Small dots stand for fewer than {SMALL_BIN} images."))
    figure = element("figure", charts.plot(x, y, marks, label=label))
    return Section("calibration", title, words, [figure, element("figure", below)])
