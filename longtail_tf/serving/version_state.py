"""The life of a model version, as GetModelStatus tells it."""

from __future__ import annotations

import dataclasses
from typing import Any

# ModelVersionStatus.State of get_model_status.proto
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50
STATE_NAMES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

_FIRST_RETRY_S, _LAST_RETRY_S = 2.0, 60.0


@dataclasses.dataclass(frozen=True)
class VersionState:
    """Where a version stands; `code` and `message` say why one that ended did so."""

    version: int
    state: int
    code: int = 0
    message: str = ""


@dataclasses.dataclass
class Candidate:
    """A version that should be loaded and is not yet, and when to try (again)."""

    fingerprint: Any
    retry_at: float = 0.0  # time.monotonic()
    retry_s: float = _FIRST_RETRY_S

    def failed(self, now: float) -> None:
        """Puts the next try off, each time for longer."""
        self.retry_at = now + self.retry_s
        self.retry_s = min(_LAST_RETRY_S, 2 * self.retry_s)
