"""Turns a dataclass of settings into absl flags, and back.

The only module beside the entry points' `main` that knows absl flags. Flags are defined by a call,
never at import: under `python -m` an entry module runs as `__main__`, and a second import of it
would define them twice.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from absl import flags as absl_flags

from longtail_tf.errors import UserError
from longtail_tf.settings.retired import RETIRED, without_retired

Settings = TypeVar("Settings")


def define_flags(
    settings_class: type, flag_values: absl_flags.FlagValues, *, positional: Optional[str] = None
) -> None:
    """Defines one flag per field of `settings_class` on `flag_values`.

    Args:
      settings_class: a dataclass whose fields were made by `settings.setting`.
      flag_values: where the flags are defined.
      positional: the field that takes the positional arguments, so it gets no flag.
    """
    hints = get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        if field.name == positional:
            continue
        kind = _plain_type(hints[field.name])
        name = field.name
        default: Any = field.default
        arguments: dict[str, Any] = {"help": _help(field), "flag_values": flag_values}
        if kind is bool:
            absl_flags.DEFINE_bool(name, default, **arguments)
        elif kind is int:
            absl_flags.DEFINE_integer(name, default, **arguments)
        elif kind is float:
            absl_flags.DEFINE_float(name, default, **arguments)
        elif field.metadata["choices"]:
            choices = list(field.metadata["choices"])
            absl_flags.DEFINE_enum(name, default, choices, **arguments)
        else:
            absl_flags.DEFINE_string(name, default, **arguments)
    # config.flags of an older run still gives these.
    for name in RETIRED:
        absl_flags.DEFINE_string(name, None, "removed", flag_values=flag_values)


def config_from_flags(
    settings_class: type[Settings],
    flag_values: absl_flags.FlagValues,
    *,
    positional: Optional[str] = None,
    arguments: Sequence[str] = (),
) -> Settings:
    """Builds the settings from the flags that were given and the positional arguments.

    Raises:
      UserError: positional arguments were given where none are taken; a removed setting.
    """
    return settings_class(
        **given_values(settings_class, flag_values, positional=positional, arguments=arguments)
    )


def given_values(
    settings_class: type,
    flag_values: absl_flags.FlagValues,
    *,
    positional: Optional[str] = None,
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """The flags that were given and the positional arguments, by name of their setting.

    Raises:
      UserError: positional arguments were given where none are taken, or a text holds a line
        break.
    """
    if arguments and positional is None:
        raise UserError(
            f"{' '.join(map(shlex.quote, arguments))!r} was given without a flag name: write every "
            "setting as --name=value."
        )
    values = {
        field.name: flag_values[field.name].value
        for field in dataclasses.fields(settings_class)
        if field.name != positional and flag_values[field.name].present
    }
    for name, value in values.items():
        _check_text(name, value)
    given = {name: flag_values[name].value for name in RETIRED if flag_values[name].present}
    without_retired(given, source="the command line or its flagfile")
    if positional is not None:
        values[positional] = tuple(arguments)
    return values


def flagfile_text(settings: Any, *, comment: str) -> str:
    """The settings as a flagfile that repeats the run: one `--name=value` a line.

    Settings that are None are left out; the comment stands on lines of its own.

    Raises:
      UserError: a setting is a text with a line break.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            continue
        _check_text(field.name, value)
        if isinstance(value, bool):
            value = str(value).lower()
        lines.append(f"--{field.name}={value}")
    return "\n".join(lines) + "\n"


def _check_text(name: str, value: Any) -> None:
    if isinstance(value, str) and any(each in value for each in "\n\r\0"):
        raise UserError(
            f"--{name}={value!r} holds a line break, which a flagfile cannot hold: give the file "
            "or folder another name."
        )


def _help(field: dataclasses.Field) -> str:
    unit = field.metadata["unit"]
    return field.metadata["help"] + (f" [{unit}]" if unit else "")


def _plain_type(hint: Any) -> type:
    """int for Optional[int], and so on."""
    if get_origin(hint) is Union:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return hint
