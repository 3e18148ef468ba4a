"""Settings that were removed: run folders of older versions still name them.

Where such a setting holds the value under which it did nothing it is skipped; any other value is
refused, as the run is not what it says without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longtail_tf.errors import UserError

# Name -> the value under which it did nothing.
RETIRED: Mapping[str, Any] = {
    "head_only_steps": 0,
    "prototype_variant": "l2",
    "prototypes_per_class": 1,
    "weight_average": 0.0,
}


def without_retired(settings: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """The settings that are left when those that were removed and did nothing are taken out.

    Args:
      settings: name -> value, as saved or as text.
      source: where they come from, for the message.

    Raises:
      UserError: a removed setting that did something.
    """
    for name in sorted(set(settings) & set(RETIRED)):
        nothing = RETIRED[name]
        if settings[name] != nothing and str(settings[name]) != str(nothing):
            raise UserError(
                f"{source} has {name}={settings[name]}, a setting that was removed: use the "
                "version that wrote it, or train again without this setting."
            )
    return {name: value for name, value in settings.items() if name not in RETIRED}
