"""How an entry point declares a setting: once, with default, help, unit and choices.

Each entry point has one frozen dataclass whose fields are made by `setting`. `flags.py` turns the
fields into command-line flags, so a setting exists in exactly one place.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

# What `X | None` is, written either way; before Python 3.10 there is one way.
_UNIONS = (Union, getattr(types, "UnionType", Union))
_LARGEST_NUMBER = 2**63


def setting(default: Any, help: str, *, unit: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
      default: the value when the flag is not given; None means "not set".
      help: one or two sentences for `--help`.
      unit: unit of a number ("images", "steps", "px"), shown in `--help`.
      choices: the allowed words of a string setting.
    """
    metadata = {"help": help, "unit": unit, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def wrong_types(
    settings_class: type, values: Mapping[str, Any], *, any_word: bool = False
) -> list[str]:
    """Names of the settings whose value is not of the declared type; unknown names are not asked.

    Args:
      settings_class: a dataclass of `setting` fields.
      values: setting name -> value, as JSON gave it.
      any_word: let a text stand that is none of a setting's choices.
    """
    hints = get_type_hints(settings_class)
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    return [
        name
        for name, value in values.items()
        if name in fields
        and not _fits(value, hints[name], () if any_word else fields[name].metadata["choices"])
    ]


def _fits(value: Any, hint: Any, choices: tuple[str, ...]) -> bool:
    kinds = [hint]
    if get_origin(hint) in _UNIONS:
        kinds = list(get_args(hint))
    if value is None:
        return type(None) in kinds
    if float in kinds and type(value) is float:
        return math.isfinite(value)
    if float in kinds and type(value) is int:
        return abs(value) < _LARGEST_NUMBER
    if int in kinds and type(value) is int:
        return abs(value) < _LARGEST_NUMBER
    if str in kinds and isinstance(value, str):
        return not choices or value in choices
    return bool in kinds and isinstance(value, bool)
