"""TensorFlow 2.21 starts with lines on stderr that no log level hides; a command line does.

Its C++ logging writes them before TensorFlow can set it up. Exactly these lines are dropped, and
whatever else the import writes is shown after it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Optional

DROPPED = (
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
)


def install() -> None:
    """Makes the first import of TensorFlow in this process quiet; imports nothing itself."""
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Answers for tensorflow once, with its own loader made quiet."""

    def find_spec(
        self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _quietly(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _quietly(function: Any) -> Any:
    def quiet(*arguments: Any) -> Any:
        sys.stderr.flush()
        terminal = os.dup(2)
        with tempfile.TemporaryFile() as written:
            os.dup2(written.fileno(), 2)
            try:
                return function(*arguments)
            finally:
                sys.stderr.flush()
                os.dup2(terminal, 2)
                os.close(terminal)
                written.seek(0)
                for line in written:
                    if not any(each in line for each in DROPPED):
                        os.write(2, line)

    return quiet
