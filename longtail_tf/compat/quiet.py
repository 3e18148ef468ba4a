"""Keeps off the terminal what TensorFlow writes past every log level, and nothing else.

Its C++ logging writes to file descriptor 2 before TensorFlow can set it up: at the import, at the
first XLA compilation, while a model is converted. Each function here silences one of these.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, BinaryIO

from absl import logging

# Lines of TensorFlow 2.21's start that say nothing to a user.
DROPPED = (
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
)


@contextlib.contextmanager
def _stderr_in_scratch() -> Iterator[BinaryIO]:
    """Sends file descriptor 2 to a scratch file, which the context gives."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as scratch:
        os.dup2(scratch.fileno(), 2)
        try:
            yield scratch
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def quiet_import() -> None:
    """Makes the first import of TensorFlow in this process quiet; imports nothing itself.

    Exactly the lines in `DROPPED` are dropped; whatever else the import writes is shown after it.
    """
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Answers for tensorflow once, with its own loader made quiet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _quietly(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _quietly(function: Any) -> Any:
    def quiet(*arguments: Any) -> Any:
        written = b""
        try:
            with _stderr_in_scratch() as scratch:
                try:
                    return function(*arguments)
                finally:
                    sys.stderr.flush()
                    scratch.seek(0)
                    written = scratch.read()
        finally:
            for line in written.splitlines(keepends=True):
                if not any(each in line for each in DROPPED):
                    os.write(2, line)

    return quiet


def quiet_first_compilation() -> None:
    """Compiles a trivial function with XLA, whose announcement of its first one is not shown."""
    import tensorflow as tf

    with _stderr_in_scratch():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))


@contextlib.contextmanager
def quiet_saving() -> Iterator[None]:
    """Shows only errors of the SavedModel writer, which tells of every file and renamed tensor."""
    import tensorflow as tf

    verbosity, level = logging.get_verbosity(), tf.get_logger().level
    logging.set_verbosity(logging.ERROR)
    tf.get_logger().setLevel("ERROR")
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tf.get_logger().setLevel(level)


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """Shows what the TFLite converter writes only when the block raises.

    It prints summaries from C++, past Python's logging, on every success too.
    """
    written = b""
    try:
        with _stderr_in_scratch() as scratch:
            try:
                yield
            except BaseException:
                sys.stderr.flush()
                scratch.seek(0)
                written = scratch.read()
                raise
    finally:
        sys.stderr.write(written.decode(errors="replace"))
