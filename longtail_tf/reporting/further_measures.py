"""Sections on the rejection of unknowns and on the embedding as a search index."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from longtail_tf.metrics.calibration import NUM_BINS, reliability_bins
from longtail_tf.reporting import charts
from longtail_tf.reporting.html import counted, decimal, element, percent, table, whole
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import GROUPS, RunData

UNKNOWN_WORDS = {
    "auroc": "AUROC: share of pairs in which the known image scores higher than the unknown one",
    "fpr_at_95_tpr": "Unknown images that pass when 95 % of the known ones pass",
    "threshold": "Threshold: below this score the answer is “unknown”",
    "false_accept_rate": "Unknown images that pass at this threshold",
    "false_reject_rate": "Known images turned away at this threshold",
}
# Not shares, though they may lie between 0 and 1.
PLAIN_NUMBERS = frozenset(("threshold",))


def unknowns_section(run: RunData) -> Section | Missing:
    """How well images of no known class are turned away."""
    title = "When it should say “I don’t know”"
    measured = run.evaluation.get("unknowns")
    rows = []
    for key, value in (measured or {}).items():
        if _is_number(value):
            rows.append([UNKNOWN_WORDS.get(key, _spoken(key)), _written(key, value)])
    if not rows:
        return Missing(title, "evaluation.json holds no numbers on unknowns.")
    asked = run.setting("false_accept_rate")
    if _is_number(asked):
        words = "Unknown images that may pass, as asked for on the validation images"
        rows.append([words, _written("false_accept_rate", asked)])
    words = (
        "The threshold is set on validation images. Here each image plays itself, and once more a "
        "stranger, with its own class taken away. True strangers may be somewhat harder, "
        "and so may classes with few or no validation images: hold what passes against what was "
        "asked for. The "
        "accuracies of this report are without rejection."
    )
    body = table(["Measure", "Value"], rows, caption="Rejection of unknown classes")
    return Section("unknowns", title, words, [body])


def retrieval_section(run: RunData) -> Section | Missing:
    """Quality of the embedding as a search index."""
    title = "As a search index"
    by_band: list[list[Any]] = []
    plain: list[list[Any]] = []
    for key, value in (run.evaluation.get("retrieval") or {}).items():
        if isinstance(value, dict) and "all" in value:
            cells = (value.get(group) for group in GROUPS)
            by_band.append([_spoken(key), *(_written(key, c) for c in cells)])
        elif isinstance(value, dict):
            plain += [[_spoken(f"{key} {k}"), _written(key, v)] for k, v in value.items()]
        elif _is_number(value):
            plain.append([_spoken(key), _written(key, value)])
    if not by_band and not plain:
        return Missing(title, "evaluation.json holds no retrieval numbers.")
    words = (
        "How well an image finds others of its class by its embedding alone, without naming a "
        "class. R is the number of other images of its class. TAR at FAR: pairs of one class that "
        "are accepted as one class, when so many pairs of two classes are."
    )
    tables = []
    if by_band:
        headers = ["Measure", "All", "Many", "Medium", "Few"]
        tables.append(table(headers, by_band, caption="Retrieval, by band of the searched image"))
    if plain:
        caption = "Retrieval and verification"
        tables.append(table(["Measure", "Value"], plain, caption=caption))
    return Section("retrieval", title, words, tables)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _written(key: str, value: Any) -> Any:
    """A share in percent like everywhere, a count or a threshold plainly; None stays None."""
    if not _is_number(value):
        return None
    if isinstance(value, int):
        return whole(value)
    return percent(value) if key not in PLAIN_NUMBERS and 0 <= value <= 1 else decimal(value)


def _spoken(key: str) -> str:
    known = {"map_at_r": "MAP@R", "r_precision": "R-precision", "queries": "Images searched with"}
    if key in known:
        return known[key]
    if key.startswith("recall_at_"):
        return f"Recall@{key[len('recall_at_'):]}"
    if key.startswith("tar_at_far "):
        return f"TAR at FAR {100 * float(key.split()[1]):g}\N{NARROW NO-BREAK SPACE}%"
    return key.replace("_", " ")


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
