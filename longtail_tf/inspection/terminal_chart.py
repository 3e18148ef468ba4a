"""The count curve as text: bars on a log scale that fit a terminal of 80 columns."""

from __future__ import annotations

import numpy as np

from longtail_tf.metrics.shot_bands import BANDS, band_ids

_BLOCKS = " ▁▂▃▄▅▆▇█"
LINEAR_UP_TO = 500  # classes; above, a linear axis would be a spike and a flat line


def count_chart(
    class_counts: np.ndarray, *, width: int = 68, height: int = 10, unicode: bool = True
) -> list[str]:
    """Lines of a bar chart of images per class, largest class first.

    Args:
        class_counts: images of each class [C], each at least 1.
        width: columns for the bars.
        height: lines for the bars.
        unicode: eighth-block bars and box lines; else `#` and `-`.

    Returns:
        Bars with their axis, ranks and shot bands; no line is wider than width + 10 columns.
    """
    counts = np.sort(np.asarray(class_counts))[::-1]
    ranks = _column_ranks(len(counts), width)
    values = counts[ranks]
    # The smallest class keeps a visible foot: the axis starts a bit below it.
    low, top = np.log(counts[-1]), np.log(counts[0])
    low -= 0.07 * (top - low) if top > low else 1.0
    levels = (np.log(values) - low) / (top - low) * height
    labels = _axis_labels(counts, low, top, height)
    lines = []
    for row in range(height - 1, -1, -1):
        filled = np.clip(levels - row, 0, 1)
        if unicode:
            bars = "".join(_BLOCKS[int(round(f * 8))] for f in filled)
        else:
            bars = "".join("#" if f >= 0.5 or (row == 0 and f > 0) else " " for f in filled)
        lines.append(f"{labels.get(row, ''):>7} {'┤' if unicode else '|'}{bars}".rstrip())
    lines.append(" " * 8 + ("└" + "─" * len(ranks) if unicode else "+" + "-" * len(ranks)))
    lines.append(" " * 9 + _rank_line(ranks))
    lines.append(" " * 9 + _band_line(values, unicode))
    return lines


def _column_ranks(num_classes: int, width: int) -> np.ndarray:
    """The class (position in falling order) that each column shows."""
    if num_classes <= width:
        return np.repeat(np.arange(num_classes), width // num_classes)
    # The first column is the largest class and the last one the smallest.
    if num_classes <= LINEAR_UP_TO:
        return np.linspace(0, num_classes - 1, width).round().astype(int)
    return np.geomspace(1, num_classes, width).round().astype(int) - 1


def _axis_labels(counts: np.ndarray, low: float, top: float, height: int) -> dict[int, str]:
    """Line -> label: the largest and smallest count, and powers of ten that have room."""
    rows = {height - 1: int(counts[0])}
    smallest = int(counts[-1])
    if smallest < counts[0]:
        row = int(np.clip((np.log(smallest) - low) / (top - low) * height, 0, height - 1))
        rows.setdefault(row, smallest)
    for power in range(1, 10):
        value = 10**power
        if smallest < value < counts[0]:
            row = int((np.log(value) - low) / (top - low) * height)
            if not any(abs(row - used) < 2 for used in rows):
                rows[row] = value
    return {row: short_number(value) for row, value in rows.items()}


def _rank_line(ranks: np.ndarray) -> str:
    """The number of the class under the columns where it stands."""
    line = [" "] * (len(ranks) + 8)
    marks = np.unique(np.linspace(0, len(ranks) - 1, 5).round().astype(int))
    free, before = 0, ""
    for mark in marks:
        text = short_number(int(ranks[mark]) + 1)
        if text == before:  # a wide bar has several marks
            continue
        before = text
        start = mark if mark == 0 else max(0, min(mark - len(text) // 2, len(ranks) - len(text)))
        if start >= free:
            line[start : start + len(text)] = text
            free = start + len(text) + 1
    return "".join(line).rstrip()


def _band_line(values: np.ndarray, unicode: bool) -> str:
    """Which columns are many, medium and few-shot classes."""
    dash = "─" if unicode else "-"
    ids = band_ids(values)
    parts = []
    for i, band in enumerate(BANDS):
        room = int((ids == i).sum())
        if room:
            name = f" {band} " if room >= len(band) + 2 else band[: max(0, room - 1)]
            filled = name.center(max(0, room - 1), dash)[: max(0, room - 1)]
            parts.append(filled + ("┘" if unicode else "|"))
    return "".join(parts)


def short_number(value: float) -> str:
    """A number in at most 6 characters: 950, 12,000, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value / 1e3:.3g}k" if value >= 100_000 else f"{value:,.0f}"
