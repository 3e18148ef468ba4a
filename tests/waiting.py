"""Waiting in tests: for progress, not for a clock, and with nothing left behind.

A limit of so many seconds that is right on an idle machine is wrong on a busy one, where each of
them holds a tenth of the work. A process is given up here when it *does* nothing for long (it
neither writes nor uses the processor) or uses far more processor time than it ever needs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import psutil

# A deadlock is told after so long, and a call that answers is never cut short, however busy the
# machine is. Also the deadline of every request that is expected to be answered.
HANG_S = 300.0
# A process that waits for ever still wakes up now and then; one that is starved of the processor
# gets more than this share of it.
_LEAST_SHARE = 0.005
# Processor seconds that no child of a test comes near: one that runs in circles is ended.
_MOST_CPU_S = 1800.0


def wait_for(condition: Callable[[], Any], *, hang_s: float = HANG_S) -> Any:
    """Returns the first true value of `condition()`, asked again and again.

    Raises:
      TimeoutError: it stayed false for `hang_s`.
    """
    end = time.monotonic() + hang_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{condition} stayed false for {hang_s:g} s")
        time.sleep(0.02)


class Child:
    """A process that `started` began; its output is in files, so it never waits for a reader."""

    def __init__(self, process: subprocess.Popen, out: BinaryIO, err: BinaryIO):
        self.process, self._out, self._err = process, out, err

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return _content(self._out)

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return _content(self._err)

    def wait_until(self, condition: Callable[[], Any], *, hang_s: float = HANG_S) -> Any:
        """The first true value of `condition()`, or None when the process has ended without one.

        Raises:
          TimeoutError: the process made no progress for `hang_s`, or used too much processor time.
        """
        since, used, written = time.monotonic(), self._cpu_s(), self._written()
        looked = since
        while True:
            ended = self.process.poll() is not None  # before the condition: its last word counts
            value = condition()
            if value or ended:
                return value or None
            time.sleep(0.02)
            now = time.monotonic()
            if now - looked < hang_s / 100:
                continue
            looked, cpu_s, size = now, self._cpu_s(), self._written()
            if size != written or abs(cpu_s - used) > _LEAST_SHARE * hang_s:
                since, used, written = now, cpu_s, size
            if now - since > hang_s or cpu_s > _MOST_CPU_S:
                raise TimeoutError(
                    f"{self.process.args} hangs: {now - since:.0f} s without progress, {cpu_s:.0f} "
                    f"s of processor time in all\n{self.out[-2000:]}\n{self.err[-4000:]}"
                )

    def finish(self, *, hang_s: float = HANG_S) -> subprocess.CompletedProcess:
        """Its end and its whole output, as `subprocess.run` gives them."""
        self.wait_until(lambda: False, hang_s=hang_s)
        return subprocess.CompletedProcess(
            self.process.args, self.process.returncode, self.out, self.err
        )

    def _cpu_s(self) -> float:
        """Processor seconds of the process and of those below it."""
        total = 0.0
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            for each in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += sum(each.cpu_times()[:4])  # own and of ended children, user and system
        return total

    def _written(self) -> int:
        return sum(os.fstat(file.fileno()).st_size for file in (self._out, self._err))


@contextlib.contextmanager
def started(command: list, *, stdin: bytes = b"", **settings: Any) -> Iterator[Child]:
    """Runs a command beside the test; when the block ends, it and all it began are gone.

    Args:
      command: the program and its arguments.
      stdin: what it reads.
      **settings: of `subprocess.Popen`: env, cwd.
    """
    with contextlib.ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        # A session of its own: its process group is all that it began and nothing else.
        process = subprocess.Popen(
            command, stdin=given, stdout=out, stderr=err, start_new_session=True, **settings
        )
        try:
            yield Child(process, out, err)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(command: list, *, hang_s: float = HANG_S, **settings: Any) -> subprocess.CompletedProcess:
    """`subprocess.run(capture_output=True, text=True)` that waits as long as there is progress."""
    with started(command, **settings) as child:
        return child.finish(hang_s=hang_s)


def _content(file: BinaryIO) -> str:
    """The whole file; where the process writes next stays as it is."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")
