"""Settings: declared once, read from flags and flagfiles, checked, filled in by methods."""

from __future__ import annotations

from longtail_tf.settings.declare import setting

__all__ = ["setting"]
