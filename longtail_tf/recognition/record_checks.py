"""Whether the fields of a saved recognizer can be a recognizer: their types, shapes and ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from longtail_tf.errors import UserError


class _Array(NamedTuple):
    """What an array field must be: its kind, and its shape in letters."""

    kind: str
    shape: str


# C classes, D numbers of an embedding, G gallery images.
_ARRAYS = {
    "class_counts": _Array("i", "C"),
    "prototypes": _Array("f", "CD"),
    "linear_kernel": _Array("f", "DC"),
    "linear_bias": _Array("f", "C"),
    "lda_kernel": _Array("f", "DC"),
    "lda_bias": _Array("f", "C"),
    "lda_precision": _Array("f", "DD"),
    "lda_center": _Array("f", "D"),
    "crt_kernel": _Array("f", "DC"),
    "crt_bias": _Array("f", "C"),
    "gallery": _Array("f", "GD"),
    "gallery_labels": _Array("i", "G"),
    "adjusted_offsets": _Array("f", "C"),
    "tau_norm_scales": _Array("f", "C"),
    "lws_scales": _Array("f", "C"),
}
_NEEDED = ("class_counts", "prototypes")
_NUMBERS = ("gate_weight", "vote_power", "lda_scatter", "threshold")
_OPTIONAL_NUMBERS = ("lda_scatter", "threshold")
_TOGETHER = (
    ("linear_kernel", "linear_bias"),
    ("lda_kernel", "lda_bias"),
    ("crt_kernel", "crt_bias"),
    ("gallery", "gallery_labels"),
)


def check_fields(path: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved recognizer as they are, once they can be one.

    Raises:
      UserError: naming `path`, where they were read.
    """
    for reason in _faults(fields):
        raise UserError(f"{path} is damaged ({reason}): restore it from a copy.")
    return fields


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong; each line relies on those before it."""
    for name in _NEEDED:
        if not isinstance(fields.get(name), np.ndarray):
            yield f"it has no array {name!r}"
    num_classes, num_head = fields.get("num_classes"), fields.get("num_head")
    if not _is_count(num_classes) or not num_classes:
        yield f"num_classes is {num_classes!r}"
    if not _is_count(num_head) or num_head > num_classes:  # type: ignore[operator]
        yield f"num_head is {num_head!r}"
    yield from _shape_faults(fields, num_classes)
    ids = fields.get("gallery_labels")
    if ids is not None and len(ids) and not 0 <= ids.min() <= ids.max() < num_classes:
        yield f"gallery_labels run from {ids.min()} to {ids.max()}, there are {num_classes} classes"
    for one, other in _TOGETHER:
        if (fields.get(one) is None) != (fields.get(other) is None):
            yield f"it has only one of {one} and {other}"
    yield from _value_faults(fields)


def _shape_faults(fields: Mapping[str, Any], num_classes: Any) -> Iterator[str]:
    sizes = {"C": num_classes}
    for name, wanted in _ARRAYS.items():
        array = fields.get(name)
        if array is None:
            continue
        if not isinstance(array, np.ndarray) or not _is_kind(array, wanted.kind):
            yield f"{name} is no array of {'numbers' if wanted.kind == 'f' else 'whole numbers'}"
        if array.ndim != len(wanted.shape):
            yield f"{name} has the shape {list(array.shape)}"
        for letter, size in zip(wanted.shape, array.shape):
            if sizes.setdefault(letter, size) != size:
                yield f"{name} has the shape {list(array.shape)}, {sizes[letter]} was expected"


def _value_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    if not _is_count(fields.get("neighbours", 1)):
        yield f"neighbours is {fields['neighbours']!r}"
    if type(fields.get("head_outdated", False)) is not bool:
        yield f"head_outdated is {fields['head_outdated']!r}"
    for name in _NUMBERS:
        value = fields.get(name, 0.0)
        if not (_is_number(value) or value is None and name in _OPTIONAL_NUMBERS):
            yield f"{name} is {value!r}"
    temperatures = fields.get("temperatures", {})
    if not isinstance(temperatures, dict) or not all(
        _is_number(value) and value > 0 for value in temperatures.values()
    ):
        yield f"temperatures are {temperatures!r}"


def _is_kind(array: np.ndarray, kind: str) -> bool:
    return array.dtype.kind in ("f" if kind == "f" else "iu")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
