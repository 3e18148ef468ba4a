"""A process that has TensorFlow imported already and runs entry points in forks of itself.

    python -m tests.sweep.fork_server

Importing TensorFlow takes seconds, a fork a hundredth of one. Each line on standard input is a job
as JSON (see `Job`); the answers are `{"pid": ...}` when it runs and `{"status": ..., ...}` when it
has ended. A child leaves the loop and then ends as any Python program does, with its exit handlers,
so that a hang or a crash at exit is seen too. No job may use TensorFlow in the server itself:
TensorFlow's threads would not survive the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import pkgutil
import resource
import sys
from collections.abc import Iterator
from typing import Any, Optional

# What lets root pass by the permissions of files, as `linux/capability.h` numbers it.
_FILE_CAPABILITIES = (0, 1, 2, 3)  # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
_DROP_FROM_BOUNDING_SET = 24
_CAPABILITY_VERSION = 0x20080522
_NOT_TO_IMPORT = ("convert_beam", "reload_check", "__main__")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of an entry point.

    Attributes:
      entry: module below longtail_tf, such as `train`.
      arguments: the command line without the program.
      folder: working folder.
      stdout, stderr: paths of files that take the output.
      environment: variables to set.
      plain_user: heed the permissions of files even as root.
      file_bytes: no file may grow beyond this; None: no limit.
      hook: "module:function" that is called in the child before the entry point; None: none.
    """

    entry: str
    arguments: list[str]
    folder: str
    stdout: str
    stderr: str
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    plain_user: bool = False
    file_bytes: Optional[int] = None
    hook: Optional[str] = None


def main() -> None:
    """Serves jobs until standard input ends."""
    _import_everything()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    job = _serve(sys.stdin, answers)
    if job is not None:
        _run(job)


def _serve(jobs: Any, answers: Any) -> Job | None:
    """Returns None in the server when there are no more jobs, and the job in each child."""
    answers.write("ready\n")
    while line := jobs.readline():
        job = Job(**json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            answers.close()
            jobs.close()  # or the child would take the server's next jobs
            return job
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        answers.write(json.dumps({"pid": pid}) + "\n")
        _, status, usage = os.wait4(pid, 0)
        cpu = usage.ru_utime + usage.ru_stime
        answer = {"status": status, "cpu_s": cpu, "peak_bytes": usage.ru_maxrss * 1024}
        answers.write(json.dumps(answer) + "\n")
    return None


def _run(job: Job) -> None:
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    for number, path, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, job.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, job.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, how, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (lives as long as the process)
    os.environ.update({name: _as_given(value) for name, value in job.environment.items()})
    os.chdir(_as_given(job.folder))
    if job.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_bytes, job.file_bytes))
    if job.plain_user:
        drop_file_powers()
    module = importlib.import_module(f"longtail_tf.{job.entry}")
    sys.argv = [str(module.__file__), *map(_as_given, job.arguments)]
    if job.hook:
        name, function = job.hook.split(":")
        getattr(importlib.import_module(name), function)()
    module.main()


def _as_given(text: str) -> str:
    """Text as a process of this locale gets it: the same bytes, decoded its own way."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def drop_file_powers() -> None:
    """Makes root heed the permissions of files, as any user must; for good, in this process.

    Another user could not read the Python of a virtual environment in root's home.
    """
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _FILE_CAPABILITIES:
        libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words, high words
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):
        for capability in _FILE_CAPABILITIES:
            sets[place] &= ~(1 << capability)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _import_everything() -> None:
    with _stdout_to_stderr():
        import h5py  # noqa: F401
        import matplotlib.pyplot  # noqa: F401
        import tensorflow as tf

        import longtail_tf

        tf.keras.Model  # noqa: B018  (imported when first looked at)
        for module in pkgutil.walk_packages(longtail_tf.__path__, "longtail_tf."):
            if module.name.rpartition(".")[2] in _NOT_TO_IMPORT:
                continue
            with contextlib.suppress(ImportError):  # extras that are not installed
                importlib.import_module(module.name)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        print(f"{threads} threads after the imports: forks may hang", file=sys.stderr)
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Some packages print when imported."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    main()
