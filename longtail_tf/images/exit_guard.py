"""Keeps Python from exiting under the threads of a dataset.

A dataset that nobody closed (an exception left it behind, say) goes on calling Python from
TensorFlow's threads. Python kills a thread that comes back to it after the interpreter has shut
down; TensorFlow then waits for that thread for ever, or aborts. So before the shutdown begins,
calls under way are waited for, and later ones do nothing: the dataset's buffers fill, and then it
calls no more.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

_QUIET_S = 0.1
_PATIENCE_S = 30.0


class _Calls:
    """How many calls are under way, and whether the interpreter is about to exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._last = 0.0
        self.exiting = False

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self._number += number
            self._last = time.monotonic()

    def finish(self) -> None:
        """Waits until no call has run for a moment."""
        self.exiting = True
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            if not self._number and time.monotonic() - self._last > _QUIET_S:
                return
            time.sleep(_QUIET_S / 10)


_calls = _Calls()
atexit.register(_calls.finish)


def until_exit(function: Callable, *, afterwards: Any) -> Callable:
    """`function`, which gives `afterwards` instead once the interpreter is about to exit."""

    def guarded(*arguments: Any) -> Any:
        with _calls:
            return afterwards if _calls.exiting else function(*arguments)

    return guarded
