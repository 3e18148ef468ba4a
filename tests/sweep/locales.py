"""Fork servers by locale: the encoding of a process is fixed when Python starts."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from types import TracebackType

from tests.sweep.runner import ForkServer

_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


class ForkServers:
    """locale -> a fork server, started when first asked for; a context that ends them all."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._servers: dict[str, ForkServer] = {}

    def __enter__(self) -> ForkServers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers.values():
            server.__exit__(kind, error, trace)

    def __call__(self, locale: str) -> ForkServer:
        """The server of "utf8", "c" (ASCII) or "latin1"."""
        if locale not in self._servers:
            server = ForkServer(self._environment(locale))
            self._servers[locale] = server.__enter__()
        return self._servers[locale]

    def _environment(self, locale: str) -> dict[str, str]:
        if locale == "utf8":
            return {"LC_ALL": "C.UTF-8"}
        if locale == "latin1" and (made := latin1_locale(self._folder)):
            return {**_ASCII, "LC_ALL": "xx_SWEEP", "LOCPATH": str(made)}
        return _ASCII


def latin1_locale(folder: pathlib.Path) -> pathlib.Path | None:
    """A folder with a locale xx_SWEEP in ISO-8859-1; None where none can be made."""
    if not shutil.which("localedef"):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "xx_SWEEP")]
    subprocess.run(command, check=False, capture_output=True)
    return folder if (folder / "xx_SWEEP").exists() else None
