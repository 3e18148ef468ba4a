"""Lines that say how far a long piece of work is: on a terminal one that moves, in a log some."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Progress:
    """A sink that keeps one line up to date on a terminal, or prints lines into a log."""

    def __init__(self, *, steps: int, start_step: int, stream: TextIO | None = None) -> None:
        self._steps, self._start_step = steps, start_step
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._started = time.perf_counter()
        self._printed_at = float("-inf")

    def __call__(self, record: dict[str, Any]) -> None:
        """Shows a training record; on a log at most one line in five seconds, and the last."""
        now, step = time.perf_counter(), record["step"]
        if not self._on_terminal and now - self._printed_at < 5 and step < self._steps:
            return
        self._printed_at = now
        seconds_per_step = (now - self._started) / max(step - self._start_step, 1)
        left = format_seconds(seconds_per_step * (self._steps - step))
        text = f"step {step:,}/{self._steps:,}"
        if "head_loss" in record:
            text += (
                f"  head {record['head_loss']:.3f} ({100 * record['head_accuracy']:.0f} % right)"
            )
        if "whole_loss" in record:
            text += (
                f"  whole {record['whole_loss']:.3f} ({100 * record['active_share']:.0f} % active)"
            )
        text += f"  {record['images_per_s']:,.0f} images/s  {left} left"
        end = "\n" if step == self._steps or not self._on_terminal else ""
        print(
            f"\r\x1b[K{text}" if self._on_terminal else text, end=end, file=self._stream, flush=True
        )


class CacheProgress:
    """Says how far the filling of a cache is, with its rate and the time left."""

    def __init__(self, name: str) -> None:
        self._name, self._stream = name, sys.stderr
        self._began: tuple[float, int] | None = None
        self._shown_at = float("-inf")
        self.rate = 0.0  # images a second

    def __call__(self, done: int, total: int) -> None:
        """Shows a line: on a terminal it is kept up to date, in a log one comes in ten seconds."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, done)  # the first batch pays for tracing: its time says nothing
            return
        seconds, before = self._began
        self.rate = (done - before) / max(now - seconds, 1e-9)
        on_terminal = self._stream.isatty()
        if now - self._shown_at < (0.5 if on_terminal else 10) and done < total:
            return
        self._shown_at = now
        left = format_seconds((total - done) / max(self.rate, 1e-9))
        text = (
            f"frozen trunk over {self._name} images: {done:,}/{total:,}  "
            f"{self.rate:,.0f} images/s  {left} left"
        )
        end = "\n" if done == total or not on_terminal else ""
        print(f"\r\x1b[K{text}" if on_terminal else text, end=end, file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
    """8 s, 2 min 5 s, 3 h 12 min."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
