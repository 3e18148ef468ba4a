"""Version folders on disk: which there are, which the policy wants, whether one still grows."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from longtail_tf.serving.model_config import ModelConfig

_VERSION = re.compile(r"\d{1,18}")


def found_versions(base_path: str) -> dict[int, str]:
    """Version number -> folder, for every child whose name is an integer.

    Raises:
      OSError: the base path cannot be listed (the caller keeps what it has).
    """
    with os.scandir(base_path) as entries:
        names = [entry.name for entry in entries if _VERSION.fullmatch(entry.name)]
    # "1" wins over "001", as the real server's sorted map has it
    return {int(name): os.path.join(base_path, name) for name in sorted(names)}


def wanted_versions(config: ModelConfig, found: dict[int, str]) -> dict[int, str]:
    """Those of `found` that the model's version policy asks for."""
    if config.versions == "all":
        chosen = sorted(found)
    elif config.versions == "specific":
        chosen = sorted(set(config.specific_versions) & set(found))
    else:
        chosen = sorted(found)[-config.num_latest :]
    return {number: found[number] for number in chosen}


def fingerprint(path: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of every file below `path`: equal twice means nobody is writing."""
    seen = []
    for folder, _, files in os.walk(path):
        for file in files:
            full = os.path.join(folder, file)
            try:
                facts = os.stat(full)
            except OSError:  # it was moved while we looked
                seen.append((full, -1, -1))
                continue
            seen.append((os.path.relpath(full, path), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(seen))


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
