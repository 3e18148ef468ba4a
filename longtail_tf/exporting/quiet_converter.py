"""Keeps the TFLite converter's C++ chatter off the terminal, unless it fails."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to a scratch file; shows it when the block raises.

    The converter prints summaries from C++, past Python's logging, on every success too.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as scratch:
        os.dup2(scratch.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            if failed:
                scratch.seek(0)
                sys.stderr.write(scratch.read().decode(errors="replace"))
