"""The scoreboard's picture of one data set: balanced accuracy by method, with intervals."""

from __future__ import annotations

import io
import pathlib
from typing import NamedTuple

from longtail_tf.files import write_atomically

_OWN, _OTHER = "#1f4e79", "#b9c4d0"


class Line(NamedTuple):
    """What is drawn of one method."""

    method: str
    rule: str  # its own
    points: dict[str, tuple[float, float]]  # rule -> (mean, half interval), fractions


def draw(path: pathlib.Path, data: str, lines: list[Line]) -> None:
    """Draws a line a method: its own rule with its interval, the other rules as pale dots.

    Args:
      path: PNG file to write.
      data: name of the data set.
      lines: of the methods.
    """
    from matplotlib.figure import Figure

    ordered = sorted(lines, key=lambda line: line.points[line.rule][0])
    figure = Figure(figsize=(8, 0.9 + 0.34 * len(ordered)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, line in enumerate(ordered):
        mean, half = line.points[line.rule]
        others = [100 * other for rule, (other, _) in line.points.items() if rule != line.rule]
        axes.plot(others, [place] * len(others), "o", color=_OTHER, ms=5, zorder=2)
        axes.errorbar(100 * mean, place, xerr=100 * half, fmt="o", color=_OWN, ms=7, capsize=3,
                      zorder=3)  # fmt: skip
    axes.set_yticks(range(len(ordered)))
    axes.set_yticklabels([f"{line.method} ({line.rule})" for line in ordered], fontsize=9)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 100))  # two seeds give intervals beyond what there is
    note = "bar: 95 % over seeds; pale: the other rules"
    axes.set_xlabel(f"balanced accuracy, % ({note})", fontsize=9)
    axes.set_title(data, loc="left", fontsize=11)
    axes.grid(True, axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
