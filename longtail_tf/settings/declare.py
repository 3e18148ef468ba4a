"""How an entry point declares a setting: once, with default, help, unit and choices.

Each entry point has one frozen dataclass whose fields are made by `setting`. `flags.py` turns the
fields into command-line flags, so a setting exists in exactly one place.
"""

from __future__ import annotations

import dataclasses
from typing import Any


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
