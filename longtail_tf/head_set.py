"""Which classes are the head: three rules, and what each of their settings would cost.

Whatever the rule, every head class has strictly more images than every class outside the head. So
classes that tie at the cut stay out together: a rule that asks for 20 classes may give 18.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from longtail_tf.errors import UserError

_BYTES_FLOAT32 = 4
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_ROWS_A_RULE = 6


def select_head(
    class_counts: np.ndarray,
    *,
    min_count: int | None = None,
    ratio: float | None = None,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns the ids of the head classes under exactly one rule.

    Args:
        class_counts: training images of each class, whole numbers [C], in any order.
        min_count: classes with more than this many images, at least 0.
        ratio: the floor(ratio * C) classes with the most images, 0 < ratio < 1.
        num_classes: this many classes with the most images, at least 1.

    Returns:
        int64 [H], positions in `class_counts` in rising order; 0 < H < C, and each of them has
        strictly more images than each class left out.

    Raises:
        UserError: no rule or several, a setting or counts out of range, or a setting that leaves
            no head class or takes every class; the message names the counts at the cut and the
            nearest setting that works.
    """
    counts = checked_counts(class_counts)
    rules = {"min_count": min_count, "ratio": ratio, "num_classes": num_classes}
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) != 1:
        came = " and ".join(f"{name}={value}" for name, value in given.items()) or "no head rule"
        raise UserError(
            f"{came} came, but the head set needs exactly one of min_count (more than so many "
            "images), ratio (top share of the classes) and num_classes (top so many classes); "
            "set one."
        )
    if min_count is not None:
        cut = checked_whole("min_count", min_count, least=0)
        head = np.flatnonzero(counts > cut)
        if not 0 < len(head) < len(counts):
            raise min_count_refusal(counts, cut, len(head))
        return head
    if ratio is not None:
        size = ratio_size(checked_ratio(ratio), len(counts))
        setting = f"ratio={ratio} ({size} of {len(counts)} classes)"
    else:
        size = checked_whole("num_classes", num_classes, least=1)
        setting = f"num_classes={size}"
    if size >= len(counts):
        raise every_class_refusal(counts, setting)
    # The largest count that stays outside; whoever has no more than that stays outside with it.
    cut = int(np.partition(counts, len(counts) - 1 - size)[len(counts) - 1 - size])
    head = np.flatnonzero(counts > cut)
    if not len(head):
        raise no_class_refusal(counts, setting, by_ratio=ratio is not None)
    return head


def head_row(
    class_counts: np.ndarray, head: np.ndarray, *, embedding_dim: int, head_batch_size: int = 128
) -> dict[str, Any]:
    """What a head set holds and what its classifier costs, beside a softmax over all classes.

    Bytes are float32. A training step holds the classifier's weights, their gradient and one
    optimiser slot [H, D] each, and the logits and their gradient [B, H] each.
    """
    counts = np.asarray(class_counts)

    def training_bytes(classes: int) -> int:
        numbers_held = classes * (3 * embedding_dim + 2 * head_batch_size)
        return int(numbers_held * _BYTES_FLOAT32)

    return {
        "head_classes": len(head),
        "class_share": len(head) / len(counts),
        "images": int(counts[head].sum()),
        "image_share": float(counts[head].sum() / counts.sum()),
        "least_images_in_head": int(counts[head].min()),
        "classifier_bytes": len(head) * embedding_dim * _BYTES_FLOAT32,
        "training_bytes": training_bytes(len(head)),
        "full_classifier_bytes": len(counts) * embedding_dim * _BYTES_FLOAT32,
        "full_training_bytes": training_bytes(len(counts)),
    }


def head_table(
    class_counts: np.ndarray, embedding_dim: int, *, head_batch_size: int = 128
) -> list[dict[str, Any]]:
    """A row for several settings of each rule: `rule`, `setting` and the facts of `head_row`.

    At most six settings of a rule, evenly spread. Settings that would be refused are left out, and
    so is one whose head is that of the setting before it; the table is empty when all classes have
    equally many images.
    """
    counts = checked_counts(class_counts)
    steps = [s * 10**e for e in range(len(str(int(counts.max())))) for s in (1, 2, 5)]
    sizes = [s * 10**e for e in range(len(str(len(counts)))) for s in (1, 2, 5)]
    table = []
    for rule, settings in (("min_count", steps), ("ratio", _RATIOS), ("num_classes", sizes)):
        before, rows = 0, []
        for setting in settings:
            try:
                head = select_head(counts, **{rule: setting})  # type: ignore[arg-type]
            except UserError:
                continue
            if len(head) != before:
                facts = head_row(
                    counts, head, embedding_dim=embedding_dim, head_batch_size=head_batch_size
                )
                rows.append({"rule": rule, "setting": setting, **facts})
            before = len(head)
        kept = np.linspace(0, len(rows) - 1, min(_ROWS_A_RULE, len(rows))).round().astype(int)
        table += [rows[i] for i in kept]
    return table


def ratio_size(ratio: float, num_classes: int) -> int:
    """floor(ratio * C), taking 0.29 * 100 = 28.999999999999996 for the 29 that was meant."""
    size = ratio * num_classes
    nearest = round(size)
    return nearest if abs(size - nearest) < 1e-9 * max(1, nearest) else math.floor(size)


def min_count_refusal(counts: np.ndarray, cut: int, head_size: int) -> UserError:
    """What to say when `min_count` leaves no head class, or takes every class."""
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return _all_equal_refusal(counts, f"min_count={cut}")
    if not head_size:
        near, size = high - 1, int((counts == high).sum())
        return UserError(
            f"min_count={cut} leaves no head class: the largest class has {high} images and a "
            f"head class needs more than min_count; the nearest that works is min_count={near} "
            f"({_classes(size)})."
        )
    size = int((counts > low).sum())
    return UserError(
        f"min_count={cut} takes every class: the smallest has {low} images, so no class is left "
        f"out; the nearest that works is min_count={low} ({_classes(size)})."
    )


def every_class_refusal(counts: np.ndarray, setting: str) -> UserError:
    """What to say when the number of head classes asked for is that of all classes or more."""
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return _all_equal_refusal(counts, setting)
    size = int((counts > low).sum())
    tie = f", as those with {low} images tie at the cut" if size < len(counts) - 1 else ""
    return UserError(
        f"{setting} takes every class: there are {len(counts)}, the smallest with {low} images; "
        f"the nearest that works is num_classes={len(counts) - 1} ({_classes(size)}{tie})."
    )


def no_class_refusal(counts: np.ndarray, setting: str, *, by_ratio: bool) -> UserError:
    """What to say when the classes asked for are none, or tie with the next one."""
    high, low = int(counts.max()), int(counts.min())
    if low == high:
        return _all_equal_refusal(counts, setting)
    tied = int((counts == high).sum())
    why = (
        f"the {tied} largest classes tie at {high} images and a tie stays out as a whole"
        if tied > 1
        else f"it comes to less than one class; the largest has {high} images"
    )
    near = f"ratio={_shortest_ratio(tied, len(counts))}" if by_ratio else f"num_classes={tied}"
    return UserError(
        f"{setting} leaves no head class: {why}; the nearest that works is {near} "
        f"({_classes(tied)})."
    )


def _all_equal_refusal(counts: np.ndarray, setting: str) -> UserError:
    images = int(counts.max())
    return UserError(
        f"{setting} cannot cut a head: {_all_classes(len(counts))} {images} "
        f"{'image' if images == 1 else 'images'}, so no setting of any rule separates a head from "
        "a tail; train on all classes alike, or add images to some."
    )


def _shortest_ratio(size: int, num_classes: int) -> str:
    """The decimal number with the fewest digits whose floor(ratio * C) is `size`."""
    for digits in range(1, 17):
        ratio = math.ceil(size / num_classes * 10**digits - 1e-6) / 10**digits
        if ratio < 1 and ratio_size(ratio, num_classes) == size:
            return f"{ratio:.{digits}f}"
    return repr(size / num_classes)


def _classes(size: int) -> str:
    return "1 head class" if size == 1 else f"{size} head classes"


def _all_classes(size: int) -> str:
    return "the only class has" if size == 1 else f"all {size} classes have"


def checked_counts(class_counts: np.ndarray) -> np.ndarray:
    """Returns counts as int64 [C], or raises UserError when they are no numbers of images."""
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or not len(counts):
        raise UserError(
            f"class_counts have shape {list(counts.shape)}, but one count for each class, [C], was "
            "expected; pass the number of training images of every class."
        )
    if counts.dtype.kind not in "iuf":
        raise UserError(
            f"class_counts have type {counts.dtype}, but whole numbers were expected; pass the "
            "number of training images of every class."
        )
    bad = np.flatnonzero(~np.isfinite(counts) | (counts < 0) | (counts != np.floor(counts)))
    if len(bad):
        raise UserError(
            f"class_counts hold {counts[bad[0]]} for class {bad[0]}, but a whole number of images, "
            "0 or more, was expected; count the training images of every class again."
        )
    return counts.astype(np.int64)


def checked_whole(name: str, value: Any, *, least: int) -> int:
    """Returns `value` as int, or raises UserError when it is no whole number >= `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not whole or value < least:
        raise UserError(
            f"{name} is {value!r}, but a whole number of at least {least} was expected; set "
            f"{name}={max(least, 20)}, say."
        )
    return int(value)


def checked_ratio(ratio: Any) -> float:
    """Returns the ratio as float, or raises UserError when it is not between 0 and 1."""
    number = isinstance(ratio, numbers.Real) and not isinstance(ratio, (bool, np.bool_))
    if not number or not 0 < ratio < 1:  # NaN fails the comparison as well
        raise UserError(
            f"ratio is {ratio!r}, but a share of the classes between 0 and 1, both excluded, was "
            "expected; set ratio=0.2 for the top fifth."
        )
    return float(ratio)
