"""Version folders on disk: which there are, which the policy wants, whether one still grows."""

from __future__ import annotations

import os
import re

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
