"""What the samplers refuse, in words."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from longtail_tf.errors import UserError

Shard = tuple  # (index, count)

_MOST_STEPS = 1 << 40


def checked_whole(name: str, value: Any, *, least: int) -> int:
    """Returns `value` as int, or raises UserError when it is no whole number >= `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise UserError(
            f"{name} is {value!r}, but a whole number of at least {least} was expected; "
            f"set {name}={least} or more."
        )
    if value < least:
        raise UserError(
            f"{name} is {value}, but it must be at least {least}; set {name}={least} or more."
        )
    return int(value)


def checked_seed(seed: Any) -> int:
    """Returns the seed as int, or raises UserError when it is no whole number."""
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, numbers.Integral):
        raise UserError(f"seed is {seed!r}, but a whole number was expected; set seed=0, say.")
    return int(seed)


def checked_step(step: Any) -> int:
    """Returns the step as int, or raises UserError when it is not in 0 .. 2^40 - 1."""
    if type(step) is int and 0 <= step < _MOST_STEPS:  # the usual case, 3 % of a batch's time
        return step
    number = checked_whole("step", step, least=0)
    if number >= _MOST_STEPS:
        raise UserError(
            f"step is {number}, but samplers count to {_MOST_STEPS - 1:,}; start again from step 0 "
            "with another seed."
        )
    return number


def checked_pk_settings(
    classes_per_batch: Any, images_per_class: Any, class_power: Any, num_classes: int
) -> None:
    """Raises UserError when P, K or the class power does not fit the number of classes."""
    if checked_whole("classes_per_batch", classes_per_batch, least=2) > num_classes:
        advice = (
            f"set classes_per_batch={num_classes} or less"
            if num_classes >= 2
            else "add a second class: a metric loss has nothing to tell apart"
        )
        raise UserError(
            f"classes_per_batch is {classes_per_batch}, but the data has only {num_classes} "
            f"{'class' if num_classes == 1 else 'classes'} with images and a batch holds distinct "
            f"classes; {advice}."
        )
    checked_whole("images_per_class", images_per_class, least=2)
    number = isinstance(class_power, numbers.Real) and not isinstance(class_power, bool)
    if not number or not 0 <= class_power <= 1:  # NaN fails the comparison as well
        raise UserError(
            f"class_power is {class_power!r}, but a number from 0 (all classes alike) to 1 (in "
            "proportion to their images) was expected; set class_power=0.5, say."
        )


def checked_rows(rows: Any) -> np.ndarray:
    """Returns row numbers as int32 (int64 where they need it) [N], a copy of the caller's."""
    rows = np.asarray(rows)
    if rows.ndim != 1:
        raise UserError(
            f"rows have shape {list(rows.shape)}, but row numbers in one flat array, [N], were "
            "expected; pass a flat array."
        )
    if not len(rows):
        raise UserError(
            "rows are empty, but sampling needs at least one row; check which classes the stream "
            "draws from."
        )
    if rows.dtype.kind not in "iu":
        raise UserError(
            f"rows have type {rows.dtype}, but whole row numbers were expected; pass positions, "
            "for example np.flatnonzero(mask)."
        )
    if int(rows.min()) < 0:
        raise UserError(
            f"rows hold {int(rows.min())}, but row numbers start at 0; pass positions in the split."
        )
    return rows.astype(np.int32 if int(rows.max()) < 2**31 else np.int64)


def shard_slice(
    shard: Shard | None, batch_size: int, *, classes_per_batch: int | None = None
) -> slice:
    """The part of a batch that replica `index` of `count` works on; all of it without a shard.

    Args:
        shard: (index, count) or None.
        batch_size: rows of the whole batch.
        classes_per_batch: for PK batches: a replica gets whole classes, and at least two, as one
            class alone has no negatives.
    """
    if shard is None:
        return slice(None)
    pair = isinstance(shard, (tuple, list)) and len(shard) == 2
    whole = pair and all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise UserError(
            f"shard is {shard!r}, but (index, count) with 0 <= index < count was expected; for "
            "the second of four replicas pass shard=(1, 4)."
        )
    index, count = int(shard[0]), int(shard[1])
    units = classes_per_batch or batch_size
    name = "classes_per_batch" if classes_per_batch else "batch_size"
    least = 2 if classes_per_batch else 1
    if units % count or units // count < least:
        better = max(least, math.ceil(units / count)) * count
        raise UserError(
            f"{name} is {units}, which does not give {count} replicas "
            + ("at least 2 whole classes each" if classes_per_batch else "equal shares")
            + f"; set {name}={better} or use fewer replicas."
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)
