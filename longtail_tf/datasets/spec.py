"""Data set specs: `KIND:PATH?key=value&...`, or a built-in name with the same query."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from longtail_tf.datasets.wording import nearest
from longtail_tf.errors import UserError

# Globs may hold question marks too, so only what looks like `?key=value` opens the options.
_QUERY = re.compile(r"\?([A-Za-z_]\w*=[^?]*)$")


class Option(NamedTuple):
    """An option of a source: its default, which also gives its type, and its choices if fixed."""

    default: Any
    kind: type = str
    choices: tuple[str, ...] = ()


# Every source understands these; they act on the index, not on how it is read.
COMMON_OPTIONS: Mapping[str, Option] = {
    "imbalance_factor": Option(1.0, float),
    "seed": Option(0, int),
    "test_fraction": Option(0.2, float),
    "untrained": Option("error", str, ("error", "drop")),
    "flip": Option(None, bool),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A parsed spec; `path` is empty for built-in names."""

    text: str
    kind: str
    path: str
    query: Mapping[str, str]

    def options(self, known: Mapping[str, Option]) -> dict[str, Any]:
        """The options as typed values, defaults filled in.

        Raises:
          UserError: an option is unknown, or its value has the wrong type or is no choice.
        """
        for name in self.query:
            if name not in known:
                raise UserError(
                    f"the data spec {self.text!r} has the unknown option {name!r}; "
                    f"{nearest(name, known)}"
                )
        return {
            name: self._value(name, option) if name in self.query else option.default
            for name, option in known.items()
        }

    def _value(self, name: str, option: Option) -> Any:
        text = self.query[name]
        if option.choices and text not in option.choices:
            raise UserError(
                f"the data spec {self.text!r} has {name}={text}; {nearest(text, option.choices)}"
            )
        try:
            return _CONVERTERS[option.kind](text)
        except (ValueError, KeyError):
            raise UserError(
                f"the data spec {self.text!r} has {name}={text}, which is no "
                f"{_KIND_NAMES[option.kind]}"
            ) from None


_CONVERTERS: Mapping[type, Any] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
}
_KIND_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def parse_spec(text: str, *, kinds: tuple[str, ...], names: tuple[str, ...]) -> Spec:
    """Parses a data spec.

    Args:
      text: the spec as the user wrote it.
      kinds: sources that take a path (`folder`, `npz`, ...).
      names: built-in names, which take none.
    """
    text = text.strip()
    match = _QUERY.search(text)
    body = text[: match.start()] if match else text
    query: dict[str, str] = {}
    for part in match.group(1).split("&") if match else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(
                f"the data spec {text!r} has the option {part!r} without a value; "
                "write options as ?name=value&name=value"
            )
        query[name] = unquote(value)
    kind, colon, path = body.partition(":")
    if not colon:
        if body in names:
            return Spec(text, body, "", query)
        raise UserError(_not_a_name(text, body, kinds, names))
    if kind not in kinds:
        raise UserError(
            f"the data spec {text!r} has the unknown kind {kind!r}; " f"{nearest(kind, kinds)}"
        )
    if not path:
        raise UserError(f"the data spec {text!r} has no path; write {kind}:PATH")
    return Spec(text, kind, os.path.expanduser(path), query)


def _not_a_name(text: str, body: str, kinds: tuple[str, ...], names: tuple[str, ...]) -> str:
    if not body:
        return f"no data set is given; pass a spec such as folder:PATH or {names[0]}"
    if os.path.exists(os.path.expanduser(body)):
        kind = "folder" if os.path.isdir(os.path.expanduser(body)) else "csv or npz"
        return f"the data spec {text!r} is a path without a kind; write {kind}:{body}"
    if body in kinds:
        return f"the data spec {text!r} has no path; write {body}:PATH"
    return f"the data spec {text!r} names no built-in data set; {nearest(body, names)}"


def from_folder(text: str, folder: str) -> str:
    """The spec with a relative path taken from `folder`; other specs as they are."""
    match = _QUERY.search(text)
    body = text[: match.start()] if match else text
    kind, colon, path = body.partition(":")
    path = os.path.expanduser(path)
    if not folder or not colon or not path or kind == "tfds" or os.path.isabs(path):
        return text
    return f"{kind}:{os.path.join(folder, path)}{text[len(body) :]}"


def is_there(text: str) -> bool:
    """Whether what a spec names by a path is there; True where it names none."""
    match = _QUERY.search(text)
    kind, colon, path = (text[: match.start()] if match else text).partition(":")
    path = os.path.expanduser(path)
    return not colon or kind == "tfds" or os.path.exists(path) or bool(glob.glob(path))
