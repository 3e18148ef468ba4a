"""Charts as inline SVG that stretch with the page, with their numbers as HTML text.

The plot area is an SVG of 1000 x 1000 units stretched to its box, strokes unscaled; labels are HTML
placed by percentages. So lines stay thin, dots stay round and text keeps its size on a phone.
A dot is a path of no length with round caps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longtail_tf.reporting.html import Html, element

SIDE = 1000
MOST_POINTS = 240


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale: `low` and `high` in data units, ticks as (value, text), linear or logarithmic."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    log: bool = False

    def place(self, values: Any) -> np.ndarray:
        """Positions of `values` along the axis, 0 at `low` to SIDE at `high`, clipped to it."""
        values = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.log:
            values = np.log10(np.maximum(values, low))
            low, high = math.log10(low), math.log10(high)
        return np.clip((values - low) / (high - low), 0, 1) * SIDE


def linear_axis(
    low: float, high: float, *, title: str, text: Callable[[float], str] | None = None
) -> Axis:
    """An axis that covers `low` to `high` with three to six round ticks."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if text is None:
        digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
        text = f"{{:,.{digits}f}}".format
    ticks = tuple((index * step, text(index * step)) for index in range(first, last + 1))
    return Axis(first * step, last * step, ticks, title)


def log_axis(low: float, high: float, *, title: str) -> Axis:
    """A logarithmic axis from `low` (above 0) to a little above `high`, ticks at powers of ten."""
    high = max(high * 1.15, low * 2)
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    stride = max(1, math.ceil(len(powers) / 7))
    ticks = [(10.0**power, _short(10.0**power)) for power in powers][::stride]
    if len(powers) < 3:
        below = math.floor(math.log10(low))
        values = [factor * 10.0**p for p in range(below, below + 3) for factor in (2, 5)]
        ticks += [(value, _short(value)) for value in values]
    return Axis(low, high, tuple(tick for tick in sorted(ticks) if low <= tick[0] <= high), title,
                log=True)  # fmt: skip


def percent_axis(title: str) -> Axis:
    """0 to 100 %, for shares 0..1."""
    return Axis(0, 1, tuple((i / 4, f"{25 * i} %") for i in range(5)), title)


def plot(
    x: Axis, y: Axis, marks: Sequence[Any], *, label: str, notes: Sequence[Html] = (),
    small: bool = False,
) -> Html:  # fmt: skip
    """A chart: grid, axes, marks.

    Args:
      x, y: its scales.
      marks: what `line`, `dots`, ... made, drawn in this order.
      label: what the chart shows, in words, for those who do not see it.
      notes: HTML placed over the frame.
      small: the height of a small multiple.
    """
    grid = [
        element("path", d=f"M0 {SIDE - at:.1f}H{SIDE}", class_="grid")
        for at in y.place([value for value, _ in y.ticks])
    ]
    frame = element("path", d=f"M0 {SIDE}H{SIDE}", class_="base")
    svg = _svg([grid, frame, marks], label)
    across = x.place([value for value, _ in x.ticks]) / SIDE
    up = y.place([value for value, _ in y.ticks]) / SIDE
    # On a phone every second label of a crowded axis goes.
    crowded = len(x.ticks) > 5
    texts = [
        element("span", text, class_="x minor" if crowded and i % 2 else "x",
                style=f"left:{100 * at:.2f}%", aria_hidden="true")
        for i, ((_, text), at) in enumerate(zip(x.ticks, across))
    ] + [
        element("span", text, class_="y", style=f"bottom:{100 * at:.2f}%", aria_hidden="true")
        for (_, text), at in zip(y.ticks, up)
    ]  # fmt: skip
    return element(
        "div",
        element("div", y.title, class_="axis up", aria_hidden="true") if y.title else None,
        element("div", svg, texts, list(notes), class_="frame"),
        element("div", x.title, class_="axis across", aria_hidden="true") if x.title else None,
        class_="plot small" if small else "plot",
    )


def bare_plot(marks: Sequence[Any], *, label: str, kind: str) -> Html:
    """Marks in units of SIDE without axes, in a frame of the given kind."""
    return element("div", element("div", _svg(marks, label), class_="frame"), class_=f"plot {kind}")


def line(x: Axis, y: Axis, xs: Any, ys: Any, kind: str) -> Html | None:
    """A line through the finite points; None where fewer than two are left."""
    across, up = _placed(x, y, xs, ys)
    if len(across) < 2:
        return None
    return element("path", d="M" + _path(across, up), class_=f"line {kind}")


def area(x: Axis, y: Axis, xs: Any, lows: Any, highs: Any, kind: str) -> Html:
    """The area between two curves over the same xs."""
    across, low = _placed(x, y, xs, lows)
    _, high = _placed(x, y, xs, highs)
    outline = _path(np.r_[across, across[::-1]], np.r_[high, low[::-1]])
    return element("path", d=f"M{outline}Z", class_=f"fill {kind}")


def dots(x: Axis, y: Axis, xs: Any, ys: Any, kinds: Sequence[str], titles: Sequence[str]) -> list:
    """A dot at each point, with a title that shows on hover."""
    across, up = x.place(xs), SIDE - y.place(ys)
    return [
        element("path", element("title", title), d=f"M{a:.1f} {b:.1f}h0", class_=f"dot {kind}")
        for a, b, kind, title in zip(across, up, kinds, titles)
    ]


def bars(x: Axis, y: Axis, lefts: Any, rights: Any, heights: Any, kind: str) -> list:
    """Upright bars from the bottom of the frame."""
    left, right, top = x.place(lefts), x.place(rights), y.place(heights)
    return [
        element("rect", x=f"{a:.1f}", y=f"{SIDE - h:.1f}", width=f"{b - a:.1f}",
                height=f"{h:.1f}", class_=f"solid {kind}")
        for a, b, h in zip(left, right, top) if h > 0
    ]  # fmt: skip


def upright(x: Axis, value: float, kind: str) -> Html:
    """A vertical line through the whole frame."""
    return element("path", d=f"M{float(x.place(value)):.1f} 0V{SIDE}", class_=f"line {kind}")


def note(x: Axis, value: float, top_percent: float, text: Any) -> Html:
    """A text beside a vertical position; it turns to the left in the right half of the frame."""
    at = float(x.place(value)) / SIDE
    side = "note left" if at > 0.5 else "note"
    return element("span", text, class_=side, style=f"left:{100 * at:.2f}%;top:{top_percent}%",
                   aria_hidden="true")  # fmt: skip


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points: means over equal runs of points; what is not finite is left out.

    The last point is kept as it is, so that a curve ends at its last number.
    """
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) <= MOST_POINTS:
        return x, y
    starts = np.linspace(0, len(x) - 1, MOST_POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.r_[starts, len(x) - 1])
    means = [np.add.reduceat(values[:-1], starts) / sizes for values in (x, y)]
    return np.r_[means[0], x[-1]], np.r_[means[1], y[-1]]


def _svg(marks: Sequence[Any], label: str) -> Html:
    return element(
        "svg", list(marks), viewBox=f"0 0 {SIDE} {SIDE}", preserveAspectRatio="none", role="img",
        aria_label=label,
    )  # fmt: skip


def _placed(x: Axis, y: Axis, xs: Any, ys: Any) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    finite = np.isfinite(xs) & np.isfinite(ys)
    return x.place(xs[finite]), SIDE - y.place(ys[finite])


def _path(across: np.ndarray, up: np.ndarray) -> str:
    return "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(across, up))


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 10 or (number >= size and letter != "k"):
            return f"{number / size:g}{letter}"
    return f"{number:,g}"
