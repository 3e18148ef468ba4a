"""The count curve and what a head set covers, as one PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from longtail_tf.inspection.terminal_chart import LINEAR_UP_TO
from longtail_tf.metrics.shot_bands import BANDS, FEW_BELOW, MANY_ABOVE, band_ids

# The colours of the bands in the report, and ink on paper for the rest.
_COLOURS = {"many": "#1f6fb2", "medium": "#b07400", "few": "#b23a78"}
_RANGES = {
    "many": f"> {MANY_ABOVE}",
    "medium": f"{FEW_BELOW}..{MANY_ABOVE}",
    "few": f"< {FEW_BELOW}",
}
_PAPER, _INK, _SOFT, _GRID = "#fbfaf8", "#1d1f22", "#5a5e66", "#e6e2d9"
_DRAWN_POINTS = 2000


def count_curve_png(class_counts: np.ndarray, facts: dict[str, Any]) -> bytes:
    """Draws the tail: images by class with the head cut, and images covered by head size.

    Args:
        class_counts: training images of each class [C], each at least 1, in any order.
        facts: from `tail_report.tail_facts` on the same counts.

    Returns:
        The bytes of a PNG of 1500 x 660 px.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    counts = np.sort(np.asarray(class_counts))[::-1]
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12)
    figure = Figure(figsize=(12.5, 5.5), dpi=120, facecolor=_PAPER, layout=layout)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    figure.suptitle(
        f"{facts['name']}: {facts['classes']:,} classes, {facts['images']:,} training images, "
        f"imbalance {facts['counts']['imbalance']:,.0f} to 1",
        x=0.012, ha="left", fontsize=13, color=_INK, fontweight="bold",
    )  # fmt: skip
    _draw_curve(left, counts, facts)
    _draw_coverage(right, counts, facts)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _draw_curve(axes: Any, counts: np.ndarray, facts: dict[str, Any]) -> None:
    """Images of each class by rank, filled by shot band, with the suggested head cut."""
    log_ranks = len(counts) > LINEAR_UP_TO
    if log_ranks:
        ranks = np.geomspace(1, len(counts), _DRAWN_POINTS).round().astype(int)
        ranks = np.unique(ranks)
    else:
        ranks = np.arange(1, len(counts) + 1)
    values, ids = counts[ranks - 1], band_ids(counts[ranks - 1])
    floor = max(0.7, counts[-1] * 0.6)
    axes.set_yscale("log")
    # Steps of width one about each rank, so that ten classes read as ten bars.
    edges = np.append(ranks - 0.5, ranks[-1] + 0.5)
    for i, band in enumerate(BANDS):
        if (ids == i).any():
            mine = np.where(ids == i, values, floor)
            row = facts["bands"][band]
            axes.stairs(
                mine, edges, baseline=floor, fill=True, color=_COLOURS[band], lw=0,
                label=f"{band}-shot ({_RANGES[band]}): {row['classes']:,} "
                f"{'class' if row['classes'] == 1 else 'classes'}, "
                f"{row['image_share']:.0%} of images",
            )  # fmt: skip
    if not log_ranks and len(counts) <= 100:  # hairlines between bars
        axes.vlines(edges[1:-1], floor, np.maximum(values[:-1], values[1:]), _PAPER, lw=0.6)
    if log_ranks:
        axes.set_xscale("log")
        axes.set_xlim(0.9, len(counts))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    else:
        axes.set_xlim(0.5, len(counts) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(floor, counts[0] * 2.2)
    best = facts["recommended_head"]
    if best is not None:
        cut = best["head_classes"] + 0.5
        axes.axvline(cut, ymax=0.8, color=_INK, lw=1.2, ls=(0, (4, 3)))
        whole = len(counts)
        place = np.log(cut) / np.log(whole) if log_ranks else cut / whole
        left = place > 0.62  # then there is no room for the words on the right
        axes.annotate(
            f"{best['flag']}\n{best['head_classes']:,} head "
            f"{'class' if best['head_classes'] == 1 else 'classes'}, "
            f"{best['image_share']:.0%} of images",
            (cut, 0.80), xycoords=("data", "axes fraction"), xytext=(-8 if left else 8, 0),
            textcoords="offset points", va="top", ha="right" if left else "left", fontsize=9.5,
            color=_INK, bbox={"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )  # fmt: skip
    axes.set_xlabel("classes, largest first" + (" (log scale)" if log_ranks else ""), color=_SOFT)
    axes.set_title("Training images of each class (log scale)", loc="left", fontsize=11, color=_INK)
    axes.legend(loc="upper right", frameon=False, fontsize=9.5, labelcolor=_INK)
    _plain(axes)


def _draw_coverage(axes: Any, counts: np.ndarray, facts: dict[str, Any]) -> None:
    """Share of the images that the largest classes hold, with the settings of min_count."""
    sizes = np.unique(np.geomspace(1, len(counts), _DRAWN_POINTS).round().astype(int))
    seen = np.cumsum(counts) / counts.sum()
    log_sizes = len(counts) > LINEAR_UP_TO
    shares, covered = sizes / len(counts), seen[sizes - 1]
    if not log_sizes:
        shares, covered = np.append(0, shares), np.append(0, covered)
    axes.plot(shares, covered, color=_INK, lw=1.8)
    axes.plot(shares, shares, color=_SOFT, lw=1, ls=":")
    for row in facts["head_settings"]:
        if row["rule"] == "min_count":
            place = (row["class_share"], row["image_share"])
            axes.plot(*place, "o", color=_COLOURS["many"], ms=6, zorder=3)
            axes.annotate(
                f"> {row['setting']:,}", place, xytext=(8, -11), textcoords="offset points",
                fontsize=9, color=_INK,
            )  # fmt: skip
    best = facts["recommended_head"]
    if best is not None:
        place = (best["class_share"], best["image_share"])
        axes.plot(*place, "o", ms=13, mfc="none", mec=_INK, mew=1.4, zorder=4)
    if log_sizes:
        axes.set_xscale("log")
        axes.set_xlim(shares[0] * 0.7, 1.4)
    else:
        axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g} %")
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    axes.set_xlabel("share of the classes in the head" + (" (log scale)" if log_sizes else ""),
                    color=_SOFT)  # fmt: skip
    axes.set_title("Share of the images in the head", loc="left", fontsize=11, color=_INK)
    if best is not None:
        axes.text(
            0.98, 0.04, "dots: the classes with more than so many images\nring: the suggested head",
            transform=axes.transAxes, ha="right", va="bottom", fontsize=9.5, color=_SOFT,
            bbox={"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )  # fmt: skip
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.set_facecolor(_PAPER)
    axes.grid(True, which="major", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, pad=6, colors=_SOFT, labelsize=9.5)
    for side in axes.spines.values():
        side.set_visible(False)
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else "")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    if axes.get_xscale() == "log":
        axes.xaxis.set_minor_formatter(lambda *_: "")
