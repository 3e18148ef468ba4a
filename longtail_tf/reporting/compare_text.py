"""A comparison as text for the terminal."""

from __future__ import annotations

import numpy as np

from longtail_tf.reporting.comparison import Comparison, Group
from longtail_tf.reporting.differences import Difference
from longtail_tf.reporting.run_data import GROUPS

SEEDS_WORDS = (
    "Paired by seed, with the t interval over seeds: it holds the chance of training and of the "
    "test images."
)
IMAGES_WORDS = (
    "Paired by test image, with a bootstrap interval over the images: it does not hold the chance "
    "of training. Train more seeds of each to know that."
)


def as_text(comparison: Comparison) -> str:
    """The comparison as aligned lines; accuracies in percent, differences in points."""
    lines = _aligned(
        ["run", "seeds", "rule", *GROUPS],
        [
            [group.name, str(len(group.runs)), rule,
             *(_mean_text(group, rule, column) for column in GROUPS)]
            for group in comparison.groups
            for rule in comparison.rules
            if group.accuracies(rule, "all")
        ],
        text_columns=3,
    )  # fmt: skip
    if comparison.rows:
        lines += ["", f"difference to {comparison.groups[0].name}, points [95 % interval]"]
        lines += _aligned(
            ["run", "rule", *GROUPS],
            [
                [row.name, row.rule, *(_difference_text(row.differences[c]) for c in GROUPS)]
                for row in comparison.rows
            ],
            text_columns=2,
        )
        lines += ["", *how_paired(comparison)]
    return "\n".join([*lines, *comparison.notes])


def how_paired(comparison: Comparison) -> list[str]:
    """How the differences were taken, a sentence a kind."""
    kinds = {d.over for row in comparison.rows for d in row.differences.values() if d}
    words = {"seeds": SEEDS_WORDS, "images": IMAGES_WORDS}
    return [text for kind, text in words.items() if kind in kinds]


def _mean_text(group: Group, rule: str, column: str) -> str:
    values = group.accuracies(rule, column)
    if not values:
        return "none"
    text = f"{100 * np.mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ±{100 * np.std(values, ddof=1):.2f}"


def _difference_text(difference: Difference | None) -> str:
    if difference is None:
        return "none"
    mean, low, high = (100 * value for value in difference[:3])
    return f"{mean:+.2f} [{low:+.2f} {high:+.2f}]"


def _aligned(headers: list[str], rows: list[list[str]], *, text_columns: int) -> list[str]:
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    return [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in [headers, *rows]
    ]
