"""Runs one case: a child of the fork server, watched for progress, and what came of it.

A wall-clock limit would call a busy machine a hang. So a child is given up only where it stands
still (no processor time for `STALL_S`), or where it has used more processor time or memory than any
case may.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from typing import Any

from tests.sweep.fork_server import Job

STALL_S = 20.0
MOST_CPU_S = 120.0
MOST_BYTES = 2 << 30
_LOOK_S = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
      exit_code: None where a signal ended it.
      signal: that signal; None where it ended by itself.
      given_up: "hang" or "memory" where the runner killed it, else "".
      stdout, stderr: what it wrote.
      cpu_s, wall_s: what it took.
      peak_bytes: memory.
    """

    exit_code: int | None
    signal: int | None
    given_up: str
    stdout: str
    stderr: str
    cpu_s: float
    wall_s: float
    peak_bytes: int


class ForkServer:
    """A fork server as a context: one job at a time."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ForkServer:
        environment = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            "MPLBACKEND": "Agg",
            # One thread each: threads do not survive a fork.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(CHECKOUT),
            **self._environment,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=CHECKOUT,
        )
        if self._answer() != b"ready\n":
            raise RuntimeError("the fork server did not start")
        return self

    def __exit__(self, *_: Any) -> None:
        process = self._process
        if process is not None and process.stdin and process.stdout:
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def run(self, job: Job, *, until: str = "", stall_s: float = STALL_S) -> Outcome:
        """Runs a job to its end.

        Args:
          job: what to run.
          until: a text in its standard output or error after which it is asked to stop by SIGTERM;
            for a server, which would run on.
          stall_s: seconds without progress after which it counts as hanging.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise RuntimeError("the fork server is used as a context")
        began = time.monotonic()
        process.stdin.write(json.dumps(dataclasses.asdict(job)).encode() + b"\n")
        process.stdin.flush()
        pid = json.loads(self._answer())["pid"]
        given_up = self._watch(pid, job, until=until, stall_s=stall_s)
        answer = json.loads(self._answer())
        with contextlib.suppress(ProcessLookupError):  # processes it started and left
            os.killpg(pid, signal.SIGKILL)
        status = answer["status"]
        return Outcome(
            exit_code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            given_up=given_up,
            stdout=_text(job.stdout),
            stderr=_text(job.stderr),
            cpu_s=answer["cpu_s"],
            wall_s=time.monotonic() - began,
            peak_bytes=answer["peak_bytes"],
        )

    def _answer(self) -> bytes:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the fork server is used as a context")
        return self._process.stdout.readline()

    def _watch(self, pid: int, job: Job, *, until: str, stall_s: float) -> str:
        """Waits for the end of a child; why it was given up, or ""."""
        assert self._process is not None and self._process.stdout is not None
        moved, most_cpu, asked = time.monotonic(), 0.0, False
        while not select.select([self._process.stdout], [], [], _LOOK_S)[0]:
            cpu, memory, runs = group_use(pid)
            now = time.monotonic()
            if runs or cpu > most_cpu + 0.02:
                moved, most_cpu = now, cpu
            reason = ""
            if now - moved > stall_s or cpu > MOST_CPU_S:
                reason = "hang"
            elif memory > MOST_BYTES:
                reason = "memory"
            if reason:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return reason
            if until and not asked and until in _text(job.stdout) + _text(job.stderr):
                asked = True
                os.kill(pid, signal.SIGTERM)
        return ""


def group_use(group: int) -> tuple[float, int, bool]:
    """(processor seconds, resident bytes, whether one would run) of the processes of a group."""
    cpu, memory, runs = 0.0, 0, False
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            cpu += sum(map(int, fields[11:15])) / _TICKS
            memory += int(fields[21]) * _PAGE
            runs = runs or fields[0] in "RD"
    return cpu, memory, runs


def _text(path: str) -> str:
    if path.startswith("/dev/"):
        return ""
    with contextlib.suppress(FileNotFoundError):
        return pathlib.Path(path).read_bytes().decode("utf-8", "backslashreplace")
    return ""
