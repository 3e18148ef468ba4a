"""What the JSON records of a run folder hold, checked before anything relies on it.

A record that still has its digest is as the run wrote it. One that was edited, or written by
another program, may hold anything: here every value is held against the type that readers rely on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from longtail_tf.files import Path
from longtail_tf.text_files import damaged

# Yields where in a value something is wrong, as the path of keys to it.
Shape = Callable[[Any], Iterator[tuple]]


def _value(is_right: Callable[[Any], bool]) -> Shape:
    def faults(value: Any) -> Iterator[tuple]:
        if not is_right(value):
            yield ()

    return faults


def _each(shape: Shape) -> Shape:
    """An object whose values are all of one shape, or null."""
    return _fields(rest=shape)


def _fields(*, needed: str = "", rest: Shape | None = None, **shapes: Shape) -> Shape:
    """An object, or null where nothing in it is needed.

    Args:
      needed: names that must be there.
      rest: shape of the values that are not named; None lets them be anything.
      **shapes: name -> shape of its value.
    """

    def faults(value: Any) -> Iterator[tuple]:
        if value is None and not needed:
            return
        if not isinstance(value, dict):
            yield ()
            return
        yield from ((name,) for name in needed.split() if name not in value)
        for name, entry in value.items():
            shape = shapes.get(name, rest)
            if shape is not None:
                yield from ((name, *where) for where in shape(entry))

    return faults


def _each_of(shape: Shape) -> Shape:
    """A list whose entries are all of one shape."""

    def faults(value: Any) -> Iterator[tuple]:
        if not isinstance(value, list):
            yield ()
            return
        for place, entry in enumerate(value):
            yield from ((place, *where) for where in shape(entry))

    return faults


def _list(is_right: Callable[[Any], bool]) -> Shape:
    return _value(lambda value: isinstance(value, list) and all(map(is_right, value)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**31


_text = _value(_is_text)
_count = _value(lambda value: type(value) is int and 0 <= value < 2**63)
_number = _value(lambda value: value is None or _is_number(value))
_pair = _list(lambda value: value is None or _is_number(value))


def _interval(value: Any) -> Iterator[tuple]:
    if value is not None:
        yield from [()] if isinstance(value, list) and len(value) != 2 else _pair(value)


def _number_or_numbers(value: Any) -> Iterator[tuple]:
    yield from (_each(_number) if isinstance(value, dict) else _number)(value)


_PROVENANCE: dict[str, Any] = {
    "data_digest": _text,
    "seed": _count,
    "commit": _text,
    "python": _text,
    "packages": _each(_text),
}
SHAPES: Mapping[str, Shape] = {
    "config.json": _fields(
        format_version=_count,
        settings=_fields(),
        working_folder=_text,
        data_times=_text,
        num_classes=_count,
        num_head=_count,
        channels=_value(lambda value: type(value) is int and value in (1, 3)),
        provenance=_fields(**_PROVENANCE),
    ),
    "head_set.json": _fields(rule=_text, num_head=_number, num_classes=_number),
    "evaluation.json": _fields(
        split=_value(lambda value: value is None or value in ("train", "val", "test")),
        step=_count,
        images_seen=_number,
        inference_rule=_text,
        rules=_each(_fields(rest=_number, intervals=_each(_interval))),
        retrieval=_each(_number_or_numbers),
        unknowns=_each(_number),
        batch_norm_refresh=_each(_number),
        provenance=_fields(**_PROVENANCE),
    ),
    "start.json": _fields(
        held_out_images=_count,
        chosen=_value(lambda value: value is None or _is_text(value)),
        trials=_each_of(
            _fields(
                needed="train_from rule balanced",
                train_from=_text,
                rule=_text,
                balanced=_number,
                bands=_each(_number),
                rules=_each(_number),
                seconds=_number,
            )
        ),
        provenance=_fields(**_PROVENANCE),
    ),
    "enrollment.json": _fields(
        needed="trained_class_names class_map changes",
        source=_text,
        trained_class_names=_list(_is_text),
        class_map=_list(_is_id),
        changes=_list(lambda value: isinstance(value, dict)),
        provenance=_fields(**_PROVENANCE),
    ),
}


def check_record(path: Path, name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record as it is, once it has the shape of its kind.

    Args:
      path: where it was read.
      name: of the kind, a key of SHAPES; others are let pass.
      content: the object read.

    Raises:
      UserError: a value is missing or of another type.
    """
    shape = SHAPES.get(name)
    for where in shape(content) if shape else ():
        raise damaged(path, f"its {'.'.join(map(str, where))} is missing or of the wrong type")
    return content


def need(path: Path, content: Any, *names: str) -> None:
    """Refuses a record that lacks one of `names`, or has null there.

    Raises:
      UserError: naming the first.
    """
    for name in names:
        if not isinstance(content, dict) or content.get(name) is None:
            raise damaged(path, f"its {name} is missing")


def is_metrics_record(record: Any) -> bool:
    """Whether a line of metrics.jsonl is a record: a step with numbers, or with those of rules."""
    if not isinstance(record, dict) or any(_count(record.get("step"))):
        return False
    val, numbers = record.get("val"), {k: v for k, v in record.items() if k != "val"}
    return not any(_each(_number)(numbers)) and not any(_each(_each(_number))(val))
