"""What the head rules refuse, in words that name the counts at the cut and what would work."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from longtail_tf.errors import UserError


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
