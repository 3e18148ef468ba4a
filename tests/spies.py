"""Spies: they stand where a function is looked up, and note what it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

# Unlike None, which a setting may be.
MISSING = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


class Spies:
    """What the watched functions were called with, by name and parameter.

    Attributes:
      calls: name of a function -> the arguments of each of its calls, by parameter.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.calls: dict[str, list[dict[str, Any]]] = {}

    def watch(self, place: Any, *names: str, instead: Callable[..., Any] | None = None) -> None:
        """Notes the calls of `names` of a module or class.

        Args:
          place: where the caller looks the function up.
          *names: functions, methods or classes there.
          instead: what is called; None: the function itself. Gets its arguments as they come.
        """
        for name in names:
            self._watch(place, name, instead)

    def _watch(self, place: Any, name: str, instead: Callable[..., Any] | None) -> None:
        function = getattr(place, name)
        signature = inspect.signature(function)
        calls = self.calls.setdefault(name, [])

        def spy(*arguments: Any, **named: Any) -> Any:
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            given = dict(bound.arguments)
            for parameter in signature.parameters.values():
                if parameter.kind is parameter.VAR_KEYWORD:
                    given.update(given.pop(parameter.name))
            calls.append(given)
            return (function if instead is None else instead)(*arguments, **named)

        self._monkeypatch.setattr(place, name, spy)

    def value(self, key: str) -> Any:
        """The argument "function.parameter" of the last call; MISSING where there was no call.

        Raises:
          KeyError: the function is not watched, or has no such parameter.
        """
        name, parameter = key.split(".")
        calls = self.calls[name]
        return calls[-1][parameter] if calls else MISSING

    def number(self, name: str) -> int:
        """How often a function was called."""
        return len(self.calls[name])
