"""`tail_report.tail_facts` as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

from longtail_tf.inspection.terminal_chart import LINEAR_UP_TO, count_chart

_WIDTH = 79
_BAND_RANGES = {"many": "> 100", "medium": "20..100", "few": "< 20"}


def tail_text(
    facts: dict[str, Any],
    class_counts: np.ndarray,
    *,
    notes: Iterable[str] = (),
    unicode: bool = True,
) -> str:
    """Lays out the facts: the curve, the bands, both streams, the head settings and advice.

    Args:
        facts: from `tail_facts`.
        class_counts: the counts that the facts are about [C].
        notes: sentences about the data, printed under the title.
        unicode: False for terminals that cannot show block characters.
    """
    counts = facts["counts"]
    scale = "log scale" if facts["classes"] <= LINEAR_UP_TO else "both axes are log scales"
    lines = [
        *_title(facts),
        *_wrapped(notes),
        "",
        f"Training images of each class, largest class first ({scale})",
        "",
        *count_chart(class_counts, unicode=unicode),
        "",
        f"largest {counts['largest']:,} | median {counts['median']:,g} | smallest "
        f"{counts['smallest']:,} | imbalance {_ratio(counts['imbalance'])} to 1",
        _half_the_images(facts),
        "",
        f"  {'shot band':<18}{'classes':>10}{'':>9}{'images':>13}",
        *(_band_row(band, facts["bands"][band]) for band in facts["bands"]),
        "",
        *_whole_stream(facts),
        "",
        *_head_settings(facts),
    ]
    if facts["advice"]:
        lines += ["", "Worth knowing", *_wrapped(facts["advice"])]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _title(facts: dict[str, Any]) -> list[str]:
    splits = "  ".join(
        f"{name} {'none' if images is None else format(images, ',')}"
        for name, images in facts["splits"].items()
    )
    title = f"{facts['name']}: {facts['classes']:,} classes, {facts['images']:,} training images"
    return [title, "=" * min(len(title), _WIDTH), f"images   {splits}"]


def _half_the_images(facts: dict[str, Any]) -> str:
    half = facts["counts"]["classes_with_half_the_images"]
    share = half / facts["classes"]
    return (
        f"half of the images are in {half:,} {'class' if half == 1 else 'classes'} "
        f"({_percent(share)} of the classes)"
    )


def _band_row(band: str, row: dict[str, Any]) -> str:
    return (
        f"  {band:<8}{_BAND_RANGES[band]:<10}{row['classes']:>10,}"
        f"{_percent(row['class_share']):>9}{row['images']:>13,}{_percent(row['image_share']):>9}"
    )


def _whole_stream(facts: dict[str, Any]) -> list[str]:
    whole = facts["whole_stream"]
    return [
        f"Whole stream: {whole['classes_per_batch']} classes x {whole['images_per_class']} images "
        f"= {whole['batch_size']} images a batch",
        "",
        _row("classes with one image", whole["singletons"]),
        _row(f"classes with fewer than {whole['images_per_class']}", whole["classes_under_k"]),
        _row("steps until every class has come", whole["steps_per_class_pass"]),
        _row("steps for as many images as there are", whole["steps_per_image_pass"]),
        _row("steps until every image has come", whole["steps_until_every_image"]),
        _row("places that repeat an image of the batch", _percent(whole["repeat_share"])),
        _row("positive pairs that are one image twice", _percent(whole["same_image_pair_share"])),
    ]


def _head_settings(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"Head set: the classes that train the classifier ({facts['embedding_dim']} numbers an "
        f"embedding)",
        "",
        f"  {'setting':<26}{'classes':>9}{'':>8}{'images':>8}{'fewest':>8}"
        f"{'weights':>9}{'training':>9}",
    ]
    rule = ""
    for row in facts["head_settings"]:
        if rule and row["rule"] != rule:
            lines.append("")
        rule = row["rule"]
        lines.append(_head_row(f"--head_{rule}={row['setting']}", row))
    lines += ["" if rule else "  (no setting of any rule cuts a head)"]
    lines += [_head_row("every class, to compare", facts["full_head"])]
    best = facts["recommended_head"]
    if best is not None:
        classes = "class" if best["head_classes"] == 1 else "classes"
        text = (
            f"Start from {best['flag']}: {best['head_classes']:,} {classes} with "
            f"{_percent(best['image_share'])} of the images; one pass over them is "
            f"{best['steps_per_image_pass']:,} head batches of {facts['head_batch_size']}. The "
            "rule: every class with more than 20 images, but at most half of the classes and 1 GiB "
            "of classifier in training (weights, gradient, optimiser, logits)."
        )
        lines += ["", *textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    return lines


def _head_row(name: str, row: dict[str, Any]) -> str:
    return (
        f"  {name:<26}{row['head_classes']:>9,}{_percent(row['class_share']):>8}"
        f"{_percent(row['image_share']):>8}{row['least_images_in_head']:>8,}"
        f"{bytes_text(row['classifier_bytes']):>9}{bytes_text(row['training_bytes']):>9}"
    )


def _row(name: str, value: Any) -> str:
    value = value.strip() if isinstance(value, str) else format(value, ",")
    return f"  {name:<44}{value:>16}"


def _wrapped(sentences: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines


def _percent(share: float) -> str:
    """A share of 0..1 in percent; 0 and 100 only for what is exactly that."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bytes_text(count: float) -> str:
    """Bytes with a unit of 1024: 4.0 KB, 1.2 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
